#!/bin/sh
# What a GPU makes of the kernels: equality, step time, memory, tokens a second, catalogue search. At most eight minutes on
# one large GPU; needs torch, transformers, peft, pydantic and this checkout (no ray, mlflow or pyarrow), and writes
# benchmarks/results/gpu.json (another place: OUT). `PYTHON=… benchmarks/gpu.sh --tiny` tries the script on a CPU.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-$( [ -x .venv/bin/python ] && echo .venv/bin/python || echo python3 )}
"$python" -c 'import torch, transformers, peft' || { echo "needs torch, transformers and peft" >&2; exit 2; }
"$python" -c 'import pydantic' 2>/dev/null || {
    echo "pydantic is missing: pip install it, or put its wheel beside this checkout and name it in PYTHONPATH" >&2
    exit 2
}
exec env PYTHONPATH=. "$python" benchmarks/gpu.py --out "${OUT:-benchmarks/results}" "$@"
