#!/usr/bin/env bash
# Sets Folio's offline throughput beside transformers' on this machine: interleaved runs of
#   folio        its engine, bf16 weights
#   static       transformers generate(), one padded batch, f32 and bf16
#   continuous   transformers generate_batch(), f32 and bf16
# and prints one JSON line a run. Usage: scripts/compare_throughput.sh [ROUNDS] [OUTPUT.jsonl]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need_rust
rounds=${1:-3}
output=${2:-/dev/stdout}
threads=$(nproc)
python="$root/.venv/bin/python"
if [ ! -x "$python" ]; then
  need python3 python3 python3-venv
  python3 -m venv .venv
  .venv/bin/pip install --quiet -r scripts/requirements.txt
fi
model="$root/.cache/llama-150m"
[ -f "$model/config.json" ] ||
  "$python" scripts/make_random_llama.py --out "$model" --params 150m --dtype bf16 --seed 0
cargo build --release --locked --quiet --package folio-benches --bin throughput

transformers() {
  "$python" scripts/bench_transformers.py --model "$model" --num-requests 64 --input-len 128 \
    --output-len 128 --threads "$threads" --mode "$1" --dtype "$2" 2>/dev/null | tail -n 1
}
for _ in $(seq "$rounds"); do
  target/release/throughput --model "$model" --threads "$threads"
  transformers static f32
  transformers static bf16
  target/release/throughput --model "$model" --threads "$threads"
  transformers continuous f32
  transformers continuous bf16
done >"$output"
