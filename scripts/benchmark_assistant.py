"""Greedy decoding with and without an assistant: how often it is right, and what that is worth.

    python scripts/benchmark_assistant.py MODEL ASSISTANT INPUTS --rows 1

MODEL and ASSISTANT are checkpoints of one vocabulary, INPUTS a file of a text a line. Decoding
alone and with several numbers of guesses are timed in turns.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import jax
from interleaved import measure, table, write_json

import t5jax
from t5jax.generation import Generation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("assistant")
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--lines", type=int, default=64, help="texts that are used")
    parser.add_argument("--rows", type=int, default=1, help="texts decoded at a time")
    parser.add_argument("--outputs", type=int, default=64, help="tokens of an output, at most")
    parser.add_argument("--guesses", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()

    t5, assistant = (
        t5jax.load(path, dtype=arguments.dtype) for path in (arguments.model, arguments.assistant)
    )
    with arguments.inputs.open(encoding="utf-8") as stream:
        lines = [line.rstrip("\n") for line in itertools.islice(stream, arguments.lines)]
    ids = t5.text_ids(lines)

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
    print(f"{len(lines)} texts, {arguments.rows} at a time, {jax.devices()[0].device_kind}")
    for name, run in contenders.items():
        found = run()
        if found.guesses:
            same = (found.ids == expected.ids).all(axis=(1, 2)).mean()
            share = found.guesses.right / found.guesses.made
            print(f"  {name:12} {share:6.1%} right; {same:6.1%} of the outputs are the same")
    seconds = measure(contenders, arguments.rounds)
    rows = table(seconds, int(expected.lengths.sum()), "tokens", "alone")
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
