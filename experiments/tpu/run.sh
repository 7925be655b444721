#!/usr/bin/env bash
# All that is to be measured on one TPU chip, in at most 12 minutes:  run.sh [options of gpu/run.py]
set -euo pipefail
folder=$(dirname "${BASH_SOURCE[0]}")
exec "$folder/../gpu/run.sh" --tpu --out="$(cd "$folder" && pwd)/results" "$@"
