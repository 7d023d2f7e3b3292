#!/usr/bin/env bash
# Installs what the tests need into .venv and runs them. Arguments go to pytest:
#   bash scripts/test.sh               the default tests
#   bash scripts/test.sh -m slow       the slow ones
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -e .venv/.installed ] || [ pyproject.toml -nt .venv/.installed ]; then
    python3 -m venv .venv
    # torch in an exact version: where an index has a CPU build of it, pip takes that one. Python
    # compiles what it imports, which is a small part of what is installed.
    .venv/bin/pip install -q --disable-pip-version-check --no-compile "torch==2.13.0" -e ".[test]"
    touch .venv/.installed
fi
# transformers 4 beside it, with the libraries that it wants older: the exports' slow test runs it in
# a process of its own.
if [ ! -e .venv/transformers4/.installed ]; then
    rm -rf .venv/transformers4
    if .venv/bin/pip install -q --disable-pip-version-check --no-compile --no-deps \
        --target .venv/transformers4 \
        "transformers==4.57.6" "tokenizers>=0.22,<=0.23.0" "huggingface-hub>=0.34,<1.0"
    then touch .venv/transformers4/.installed
    else rm -rf .venv/transformers4  # the test says that it skips
    fi
fi
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" TF_CPP_MIN_LOG_LEVEL=2
# Programs do not note which lines of Python they come from: a tenth of the tests' time.
export JAX_TRACEBACK_IN_LOCATIONS_LIMIT="${JAX_TRACEBACK_IN_LOCATIONS_LIMIT:-0}"

# Most of the default tests' time is compiling: there XLA makes plain code, in a quarter of the time,
# if this jaxlib knows the flags. The slow tests compile as users do.
plain="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
compile_plainly() {
    if XLA_FLAGS="${XLA_FLAGS:-} $plain" .venv/bin/python -c "import jax; jax.devices()" 2>/dev/null
    then export XLA_FLAGS="${XLA_FLAGS:-} $plain"
    fi
}

# Two at a time: compiling, which most of them do, keeps one core busy. After a worker's crash
# pytest-xdist 3.8 may wait for ever for a new one's tests (its issue 1378): no new one.
two=(-n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0)
if [ "$#" -eq 0 ]; then
    compile_plainly
    set -- -m "not slow" "${two[@]}"
elif [ "$*" = "-m slow" ]; then
    set -- -m slow "${two[@]}"
fi
exec .venv/bin/python -m pytest "$@"
