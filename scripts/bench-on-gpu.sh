#!/usr/bin/env bash
# One call on a GPU machine without a network: says what the peers will miss, measures, prints the
# table, leaves records and logs. Usage: bash scripts/bench-on-gpu.sh WHEELS OUT [flags of bench]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 3
wheels=${1:?say which folder has the wheels} out=${2:?say which folder the results go to}
shift 2
(($#)) || set -- --shapes 8192x8192 --m 1,16
mkdir -p "$out"

for tool in nvidia-smi nvcc; do
  command -v "$tool" >/dev/null || [ -x "/usr/local/cuda/bin/$tool" ] || echo "there is no $tool here"
done
python3 -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'

started=$SECONDS
bash run.sh bench --wheels "$wheels" "$@" 2>"$out/stderr.txt" | tee "$out/bench.txt"
code=${PIPESTATUS[0]}
grep -vE '^(WARNING|[0-9]+/)' "$out/stderr.txt" | tail -n 40
echo "bench ended with $code after $((SECONDS - started)) s"

cat results/*/bench.jsonl >"$out/bench.jsonl" 2>/dev/null
tail -n 60 .state/logs/*.log >"$out/logs.txt" 2>/dev/null
python3 - "$out/bench.jsonl" <<'END'
import json, sys
from collections import Counter

try:
    records = [json.loads(line) for line in open(sys.argv[1])]
except OSError:
    sys.exit("no record was left")
print("records:", dict(Counter(f"{r['executor']} {r['status']}" for r in records)))
errors = {}
for r in records:
    if r["relative_error"] is not None:
        errors[r["executor"]] = max(errors.get(r["executor"], 0), r["relative_error"])
print("largest relative error:", {name: f"{error:.1e}" for name, error in errors.items()})
for r in records:
    if r["status"] != "ok":
        print(r["executor"], r["b_dtype"], r["m"], r["k"], r["n"], r["status"], r["reason"][:300])
END
exit "$code"
