#!/usr/bin/env bash
# Set up .venv and run the whole pipeline on the built-in synthetic world. Arguments go to `linguarec demo`.
set -euo pipefail
bash "$(dirname "$0")/setup.sh" .venv requirements.lock
exec "$(dirname "$0")/../.venv/bin/linguarec" demo "$@"
