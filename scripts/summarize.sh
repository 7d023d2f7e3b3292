#!/usr/bin/env bash
# Trains on docstrings by span corruption, fine-tunes on their first sentences; ROUGE before, after.
# Needs t5jax: `source .venv/bin/activate`.
set -euo pipefail
cd "$(dirname "$0")/.."
config=configs/summarize_docstrings.yaml
[ -e runs/docstrings.model ] || t5jax vocabulary summarize_docstrings runs/docstrings.model --size 2000
t5jax train $config --init=null --run_dir=runs/docstrings --data.mixture=docstrings_span_corruption \
    --eval.tasks=[] --training.steps=200
t5jax train $config
for run in docstrings summarize_docstrings; do
    t5jax eval runs/$run --tasks summarize_docstrings --split test --show 5
done
TF_CPP_MIN_LOG_LEVEL=3 python - <<'END'
import json
from t5jax.tasks.metrics import rouge

file = "runs/summarize_docstrings/eval/summarize_docstrings/predictions.jsonl"
rows = [json.loads(line) for line in open(file, encoding="utf-8")]
lead = [" ".join(row["inputs"].split()[1:11]) for row in rows]
print("the input's first ten words:", rouge([row["targets"] for row in rows], lead))
END
