#!/usr/bin/env bash
# Set up an environment of its own (.venv-test) and pass every check: lint, format, types, import rules, tests.
# Arguments go to pytest. With CI=true the environment is made anew. Real data is looked for in LINGUAREC_SHARED or ../shared.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-test
if [ "${CI:-}" = true ]; then rm -rf "$venv"; fi
bash scripts/setup.sh "$venv" requirements-dev.lock < /dev/null

failed=()
step() {
  echo "== $*"
  "$venv/bin/$1" "${@:2}" < /dev/null || failed+=("$1 ${2:-}")
}
# One thread for each of the two pytest workers; nothing is fetched from a model hub.
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
step ruff check .
step ruff format --check .
step mypy
step lint-imports
step pytest --numprocesses 2 --dist loadfile "$@"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
