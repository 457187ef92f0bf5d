#!/usr/bin/env bash
# Set up an environment of its own (.venv-test) and pass every check: lint, format, types, import rules, tests, documentation.
# Arguments go to pytest. With CI=true the environment is made anew. Real data is looked for in LINGUAREC_SHARED or ../shared.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-test
if [ "${CI:-}" = true ]; then rm -rf "$venv"; fi

# The tests of the page need a Chromium, those of Spark a Java. Without one they are skipped, but not in CI: there it is
# installed, meanwhile.
browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
missing=()
browser > /dev/null || missing+=(chromium)
command -v java > /dev/null || [ -n "${JAVA_HOME:-}" ] || missing+=(openjdk-17-jre-headless)
install_missing() {
  command -v apt-get || { echo "there is no apt-get"; return 1; }
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  "${as_root[@]}" apt-get update -qq || true # lists of packages may be there already
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}"
}
installing=
if [ "${CI:-}" = true ] && [ ${#missing[@]} -gt 0 ]; then
  log="$(mktemp)"
  install_missing > "$log" 2>&1 < /dev/null &
  installing=$!
fi
bash scripts/setup.sh "$venv" requirements-dev.lock < /dev/null
if [ -n "$installing" ] && ! wait "$installing"; then
  echo "${missing[*]} could not be installed, so tests will fail:" >&2
  tail -n 5 "$log" >&2
fi

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
echo "== the documentation"
bash scripts/docs.sh --quiet < /dev/null || failed+=("scripts/docs.sh")
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
