#!/usr/bin/env bash
# Installs t5jax into .venv, trains two word tasks from scratch, evaluates them, answers.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/t5jax ]; then
    python3 -m venv .venv
    .venv/bin/pip install -q --upgrade pip
    .venv/bin/pip install -q -e ".[examples]"
fi
t5jax=.venv/bin/t5jax
[ -e runs/words.model ] || $t5jax vocabulary words runs/words.model --size 160 --words 76
$t5jax train configs/quickstart.yaml
$t5jax eval runs/quickstart --tasks words --split test
$t5jax generate runs/quickstart "pronounce: hello" "past: go"
