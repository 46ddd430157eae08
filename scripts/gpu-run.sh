#!/usr/bin/env bash
# Tests and measurements on a machine with a GPU, in stages of at most eight minutes that may be run again to go on:
#   scripts/gpu-run.sh [--out DIR] STAGE...    smoke primitives ops e2e sanitizer limits perf batch peers, or all
# From a bundle that cpack made, or from a checkout with a build. Each stage writes DIR/STAGE.json ($OUT where --out is
# not given) and skips what is done there. `--emulated` runs the same without a GPU, `--help` says the rest. It ends with
# 1 if a test failed, with 3 if none failed but something is left to do. Python 3 is all that is needed beside it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
command -v python3 >/dev/null || { echo "gpu-run.sh: Python 3 is needed" >&2 && exit 2; }
exec env PYTHONDONTWRITEBYTECODE=1 python3 "$root/perf/gpu/run.py" "$@"
