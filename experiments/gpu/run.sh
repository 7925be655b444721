#!/usr/bin/env bash
# All that is to be measured on one GPU, in at most 12 minutes:  run.sh [options of run.py]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-.venv/bin/python}" experiments/gpu/run.py "$@"
