#!/usr/bin/env bash
# Make a virtual environment with linguarec and the locked versions of all it needs.
#   bash scripts/setup.sh VENV [LOCK]        LOCK: requirements.lock (to use it) or requirements-dev.lock (to work on it)
# On Linux without an NVIDIA GPU torch is installed without its CUDA packages (2 GB less). PYTHON=python3.12 picks the Python.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${1:?where to make the environment, for example: bash scripts/setup.sh .venv}"
lock="${2:-requirements.lock}"
python="${PYTHON:-python3}"

fail() {
  echo "setup: $*" >&2
  exit 1
}

command -v "$python" > /dev/null || fail "there is no $python here; install Python 3.11 or newer, or name one: PYTHON=... $0"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "$("$python" --version) is too old; linguarec needs Python 3.11 or newer. Name one: PYTHON=python3.12 $0 $*"

stamp="$(cat pyproject.toml "$lock" | cksum)"
if [ "$(cat "$venv/.linguarec-setup" 2> /dev/null || true)" = "$stamp" ]; then
  echo "setup: $venv is up to date"
  exit 0
fi

echo "setup: making $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" \
  || fail "cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
# With a terminal to look at, pip shows how far it is.
quiet=--quiet
if [ -t 1 ]; then quiet=--progress-bar=on; fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# pip before 23.3 downloads what a dry run only has to look at.
pip install --quiet --upgrade 'pip>=24' || fail "pip cannot install; is there a network, or a local package index?"

torch="$(grep -oE '^torch==[0-9.]+' "$lock")"
has_gpu() { command -v nvidia-smi > /dev/null && nvidia-smi --list-gpus 2> /dev/null | grep -q GPU; }
brings_cuda() {
  pip install --dry-run --quiet --ignore-installed --report - "$torch" | "$venv/bin/python" -c '
import json, sys
names = [package["metadata"]["name"].lower() for package in json.load(sys.stdin)["install"]]
sys.exit(not any(name.startswith(("nvidia", "cuda", "triton")) for name in names))'
}
if "$venv/bin/python" -c 'import torch' 2> /dev/null; then
  echo "setup: $venv has torch already"
elif [ "$(uname -s)" != Linux ] || has_gpu || ! brings_cuda; then
  echo "setup: installing $torch"
  pip install $quiet "$torch" || fail "$torch could not be installed; the lines above say why"
else
  echo "setup: no GPU here; installing the CPU build of $torch"
  pip install --quiet "$(grep -oE '^uv==[0-9.]+' requirements-dev.lock)" \
    && "$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" --torch-backend=cpu "$torch" \
    || fail "the CPU build of $torch could not be installed (see above). To go on with the ordinary build, 2 GB larger:
  $venv/bin/python -m pip install $torch && bash $0 $*"
fi

echo "setup: installing the rest of $lock; this takes some minutes"
pip install $quiet --no-deps --requirement "$lock" || fail "the packages of $lock could not be installed; the lines above say why"
pip install --quiet --no-deps --editable . || fail "linguarec itself could not be installed; the lines above say why"
echo "$stamp" > "$venv/.linguarec-setup"
