#!/usr/bin/env bash
# Build the documentation as a site into site/. A broken link or anchor, and a page that is in no menu, are errors.
# Arguments go to `mkdocs build`; `bash scripts/docs.sh serve` serves the site and builds it anew when a page changes.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-test
[ -x "$venv/bin/mkdocs" ] || bash scripts/setup.sh "$venv" requirements-dev.lock < /dev/null
# Without NO_MKDOCS_2_WARNING the theme prints a note about the next MkDocs, which is none about these pages.
export NO_MKDOCS_2_WARNING=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
if [ "${1:-}" = serve ]; then
  exec "$venv/bin/mkdocs" serve "${@:2}"
fi
exec "$venv/bin/mkdocs" build --strict --clean "$@"
