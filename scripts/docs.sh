#!/usr/bin/env bash
# Build the documentation as a site into site/; every broken link, anchor and page that is in no menu is an error.
# Arguments go to `mkdocs build`; `bash scripts/docs.sh serve` serves it and builds it anew when a page changes.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-test
[ -x "$venv/bin/mkdocs" ] || bash scripts/setup.sh "$venv" requirements-dev.lock < /dev/null
# NO_MKDOCS_2_WARNING: the theme's advertisement about the next MkDocs is no finding about these pages.
export NO_MKDOCS_2_WARNING=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
if [ "${1:-}" = serve ]; then
  exec "$venv/bin/mkdocs" serve "${@:2}"
fi
exec "$venv/bin/mkdocs" build --strict --clean "$@"
