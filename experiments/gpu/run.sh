#!/usr/bin/env bash
# All that is to be measured on one GPU, in at most 12 minutes:  run.sh [options of run.py]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null || {
  echo "run.sh: no $python: make it by ./launch.sh --version, or name another by PYTHON=" >&2
  exit 1
}
exec "$python" "$root/experiments/gpu/run.py" "$@"
