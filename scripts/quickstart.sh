#!/usr/bin/env bash
# Installs t5jax into .venv, trains two word tasks from scratch, evaluates them, answers.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/t5jax ]; then
    echo "installing into .venv"
    python3 -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check --no-compile -e ".[examples]"
fi
t5jax=.venv/bin/t5jax
[ -e runs/words.model ] || $t5jax vocabulary words runs/words.model --size 160 --words 76
$t5jax train configs/quickstart.yaml
echo
echo "words that training has not seen: input: prediction = or ≠ reference"
$t5jax eval runs/quickstart --tasks words --split test --show 5
cat <<'END'

Try next:
  .venv/bin/t5jax generate runs/quickstart "pronounce: serendipity" "past: overthrow"
  .venv/bin/t5jax train configs/quickstart.yaml --run_dir=runs/longer --training.steps=3000
  .venv/bin/t5jax tasks pronounce --n 5
  .venv/bin/tensorboard --logdir runs
END
