#!/usr/bin/env bash
# Trains on docstrings by span corruption, fine-tunes on their first sentences; ROUGE before, after.
# Needs t5jax: `source .venv/bin/activate`.
set -euo pipefail
cd "$(dirname "$0")/.."
config=configs/summarize_docstrings.yaml
[ -e runs/docstrings.model ] || t5jax vocabulary summarize_docstrings runs/docstrings.model --size 2000
t5jax train $config --init=null --run_dir=runs/docstrings --data.mixture=docstrings_span_corruption \
    --eval.tasks=[] --training.steps=250
t5jax train $config
for run in docstrings summarize_docstrings; do
    t5jax eval runs/$run --tasks summarize_docstrings --split test --show 5
done
echo "and beside it the input's first ten words:"
predictions=runs/summarize_docstrings/eval/summarize_docstrings/predictions.jsonl
python - $predictions > runs/first_ten_words.jsonl <<'END'
import json, sys

for line in open(sys.argv[1], encoding="utf-8"):
    row = json.loads(line)
    print(json.dumps(row | {"prediction": " ".join(row["inputs"].split()[1:11])}))
END
t5jax compare $predictions runs/first_ten_words.jsonl
