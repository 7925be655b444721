#!/usr/bin/env bash
# All that is to be measured on one GPU, in at most 12 minutes:  run.sh [options of run.py]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || {
  echo "run.sh: no $python: make it by ./launch.sh --version, or name another by PYTHON=" >&2
  exit 1
}
exec "$python" experiments/gpu/run.py "$@"
