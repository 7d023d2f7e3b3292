"""Greedy decoding with and without an assistant: the share of right guesses, and the speed.

    python scripts/benchmark_assistant.py MODEL ASSISTANT INPUTS --rows 1

MODEL and ASSISTANT are checkpoints with one vocabulary, INPUTS is a file with a text a line.
Decoding alone and with several numbers of guesses are timed in turns.

    python scripts/benchmark_assistant.py --random t5_base --noise 0.03

needs no checkpoints: the model has random weights, the assistant is the first layer of each of its
stacks, and the outputs of the other layers are multiplied by `--noise`, which sets the share of
right guesses. Times are those of any model and assistant of these sizes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from contenders import report
from contenders.checkpoint import random_params
from interleaved import measure

import t5jax
from t5jax.engine.results import Generation
from t5jax.vocabulary import ByteVocabulary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("assistant", nargs="?")
    parser.add_argument("inputs", type=Path, nargs="?")
    parser.add_argument("--random", choices=t5jax.VARIANTS, help="a pair with random weights")
    parser.add_argument("--noise", type=float, default=0.03, help="scale of the other layers")
    parser.add_argument("--lines", type=int, default=64, help="most texts used")
    parser.add_argument("--rows", type=int, default=1, help="texts decoded together")
    parser.add_argument("--outputs", type=int, default=64, help="longest output in tokens")
    parser.add_argument("--guesses", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()

    if arguments.random and arguments.model:
        parser.error(f"--random makes its own pair; leave {arguments.model!r} out")
    if arguments.random:
        config = t5jax.VARIANTS[arguments.random]
        t5, assistant = random_pair(config, arguments.noise, arguments.dtype)
        ids = np.random.default_rng(0).integers(3, config.vocab_size, (arguments.lines, 64))
    elif arguments.inputs:
        t5, assistant = (
            t5jax.load(path, dtype=arguments.dtype)
            for path in (arguments.model, arguments.assistant)
        )
        with arguments.inputs.open(encoding="utf-8") as stream:
            lines = [line.rstrip("\n") for line in itertools.islice(stream, arguments.lines)]
        ids = t5.text_ids(lines)
    else:
        parser.error("MODEL, ASSISTANT and INPUTS are needed, or --random")

    def decode(**options) -> Callable[[], Generation]:
        return lambda: t5.generate_ids(
            ids,
            batch_size=arguments.rows,
            max_new_tokens=arguments.outputs,
            return_scores=False,
            **options,
        )

    contenders = {"alone": decode()} | {
        f"{count} guesses": decode(assistant_model=assistant, num_assistant_tokens=count)
        for count in arguments.guesses
    }
    expected = contenders["alone"]()
    print(f"{len(ids)} texts, {arguments.rows} at a time, {jax.devices()[0].device_kind}")
    for name, run in contenders.items():
        found = run()
        if found.guesses:
            same = (found.ids == expected.ids).all(axis=(1, 2)).mean()
            share = found.guesses.right / found.guesses.made
            print(f"  {name:12} {share:6.1%} right; {same:6.1%} of the outputs are the same")
    seconds = measure(contenders, arguments.rounds)
    rows = report.rows({"tokens": int(expected.lengths.sum())}, seconds, "alone")
    for row in rows:
        print(report.line(row, "alone"))
    report.write(arguments.json, {"rows_at_a_time": arguments.rows}, rows)


def random_pair(
    config: t5jax.T5Config, noise: float, dtype: str
) -> tuple[t5jax.Text2Text, t5jax.Text2Text]:
    """A model, and the first layers of its stacks as its assistant."""
    params = random_params(config)
    small = params | {
        stack: params[stack] | {"layers": jax.tree.map(lambda x: x[:1], params[stack]["layers"])}
        for stack in ("encoder", "decoder")
    }

    def quieter(path: tuple, x: jax.Array) -> jax.Array:
        # Kernels whose outputs are added to the residual stream.
        adds = "layers" in str(path) and path[-1].key in ("out", "wo")
        return x.at[1:].multiply(noise) if adds else x

    params = jax.tree_util.tree_map_with_path(quieter, params)
    vocabulary = ByteVocabulary(config.vocab_size - 259)
    one = config.replace(num_layers=1, num_decoder_layers=1)
    return (
        t5jax.Text2Text(config, params, vocabulary, dtype=dtype),
        t5jax.Text2Text(one, small, vocabulary, dtype=dtype),
    )


if __name__ == "__main__":
    main()
