#!/usr/bin/env bash
# Five folds of the paper's network, then its training speed:  run.sh DIR  (images/ and masks/).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-.venv/bin/python}
"$python" experiments/unet_isbi_gpu/throughput.py
"$python" experiments/sweep.py experiments/unet_isbi_gpu --seeds=1 -- --config.data.data_dir="$1"
