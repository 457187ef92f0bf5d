#!/usr/bin/env bash
# Make requirements.lock and requirements-dev.lock anew from pyproject.toml. Needs uv, and torch's version as an argument:
#   bash scripts/lock.sh 2.13.0
# torch's CUDA packages are left out on purpose: scripts/setup.sh installs torch first, in the build that fits the machine
# (pip brings the CUDA packages of the ordinary build along, pinned by torch itself).
set -euo pipefail
cd "$(dirname "$0")/.."
torch="${1:?the version of torch, for example: bash scripts/lock.sh 2.13.0}"
constraint="$(mktemp)"
trap 'rm -f "$constraint"' EXIT
echo "torch==$torch" > "$constraint"

lock() {
  local output="$1"
  shift
  {
    echo "# Exact versions for every platform and Python >= 3.11, made by: bash scripts/lock.sh $torch"
    echo "# Install with scripts/setup.sh, which takes torch's CPU build on machines without a GPU; CUDA packages are not listed."
    uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
      --constraint "$constraint" "$@" pyproject.toml | grep -vE '^(nvidia|cuda|triton)[a-z0-9-]*=='
  } > "$output.partial"
  mv "$output.partial" "$output"
}

lock requirements.lock
lock requirements-dev.lock --extra dev --extra serve --extra tune --extra onnx --extra hub --extra docs --extra spark
