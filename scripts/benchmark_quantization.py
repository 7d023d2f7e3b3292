"""Quality, memory and speed of a quantized checkpoint, on a task's examples.

    python scripts/benchmark_quantization.py runs/quickstart words --examples 200

For every scheme: bytes, the share of greedy ids that agree with float32, the mean difference of the
targets' log-probabilities from float32, and decoding speed, timed in turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax
import numpy as np
from contenders import report
from interleaved import measure

import t5jax
from t5jax.evaluate import Evaluation

SCHEMES = {
    "float32": {},
    "int8": {"quantize": "int8"},
    "int8, float head": {"quantize": "int8", "quantize_head": False},
    "int4": {"quantize": "int4"},
    "int4, float head": {"quantize": "int4", "quantize_head": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("tasks", help="tasks or mixtures, divided by commas")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--examples", type=int, default=200, help="first examples of each task")
    parser.add_argument("--rows", type=int, default=16, help="inputs decoded together")
    parser.add_argument("--outputs", type=int, default=64, help="longest output in tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()

    models = {name: t5jax.load(arguments.checkpoint, **how) for name, how in SCHEMES.items()}
    plain = models["float32"]
    evaluation = Evaluation(
        arguments.tasks.split(","),
        plain.vocabulary,
        split=arguments.split,
        examples=arguments.examples,
    )
    texts = [
        (row["inputs"], row["targets"])
        for result in evaluation.run(plain, max_new_tokens=1).values()
        for row in result.predictions
    ]
    inputs, targets = (list(column) for column in zip(*texts, strict=True))
    ids = plain.text_ids(inputs)

    def decode(t5: t5jax.Text2Text) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            found = t5.generate_ids(
                ids,
                batch_size=arguments.rows,
                max_new_tokens=arguments.outputs,
                return_scores=False,
            ).ids[:, 0]
            return np.pad(found, ((0, 0), (0, arguments.outputs - found.shape[1])))

        return run

    contenders = {name: decode(t5) for name, t5 in models.items()}
    expected = contenders["float32"]()
    scores = plain.score(inputs, targets)
    print(f"{len(texts)} examples, {arguments.rows} at a time, {jax.devices()[0].device_kind}")
    results = {}
    for name, t5 in models.items():
        found = contenders[name]()
        there = (found != 0) | (expected != 0)
        off = t5.score(inputs, targets) - scores
        results[name] = {
            "bytes": sum(x.nbytes for x in jax.tree.leaves(t5.decoder.params)),
            "same_ids": float((found == expected)[there].mean()),
            "same_outputs": float((found == expected).all(axis=1).mean()),
            "log_p_difference": float(np.abs(off).mean()),
        }
        print(
            f"  {name:28} {results[name]['bytes'] / 1e6:8.2f} MB {results[name]['same_ids']:7.2%} "
            f"of ids, {results[name]['same_outputs']:7.2%} of outputs; "
            f"log p off by {results[name]['log_p_difference']:.4f} nats on average"
        )
    seconds = measure(contenders, arguments.rounds)
    rows = report.rows({"tokens": int((expected != 0).sum())}, seconds, "float32")
    for row in rows:
        print(report.line(row, "float32"))
    report.write(arguments.json, {"schemes": results}, rows)


if __name__ == "__main__":
    main()
