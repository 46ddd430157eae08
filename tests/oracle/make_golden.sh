#!/bin/sh
# Makes tests/runtime/data/golden-*.npy again. The model files come from make_model, bit for bit the same everywhere; the
# logits come from numpy_llama.py. Rows 19, 39, ... of 560 tokens: positions on both sides of a span's end.
#   tests/oracle/make_golden.sh build/perf/make_model [PYTHON with numpy]
set -eu
make_model=$1
python=${2:-python3}
here=$(cd "$(dirname "$0")" && pwd)
data=$here/../runtime/data
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
for name in golden-f32 golden-q4_0 golden-q4_1 golden-f16 golden-q4_k golden-iq4_xs; do
  first=$("$make_model" --shape $name -o "$models/$name.gguf" | cut -d' ' -f1)
  for kv in f64 f16; do
    "$python" "$here/numpy_llama.py" --model "$first" --tokens "@$data/golden_tokens.txt" --kv $kv --stride 20 \
      --out "$data/$name-kv-$kv.npy"
  done
done
