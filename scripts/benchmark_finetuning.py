"""Fine-tuning from end to end: t5jax packs rows, transformers pads examples of similar length.

    python scripts/benchmark_finetuning.py --python transformers=OTHER_VENV/bin/python

Both train the same random weights on the same task with AdamW. t5jax reads the task with seqio and
chooses its row lengths (`data.lengths: auto`); transformers is given the examples as ids, in
batches drawn with Trainer's group_by_length and padded to their longest. Each has a process of its
own; they take turns. What counts is non-padding tokens a second, inputs and targets together. t5jax
packs a few batches ahead, also while the other has its turn, as far as data.prefetch goes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

import numpy as np
from benchmark import pair
from contenders import report
from contenders.inputs import write_examples
from contenders.turns import SCRIPTS, Contender, Failed, processes, take_turns

LIBRARIES = ("t5jax", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="summarize_docstrings", help="(summarize_docstrings)")
    parser.add_argument(
        "--vocabulary",
        help="SentencePiece file; by default one of 8,000 pieces is made of the task",
    )
    parser.add_argument("--variant", default="t5_small", help="sizes of the model (t5_small)")
    parser.add_argument("--rows", type=int, default=8, help="packed rows of a batch (8)")
    parser.add_argument("--examples", type=int, default=32, help="of a padded batch (32)")
    parser.add_argument("--dropout", type=float, default=0.1, help="(0.1)")
    parser.add_argument("--dtype", default="float32", help="(float32)")
    parser.add_argument("--contenders", nargs="+", default=LIBRARIES, metavar="LIBRARY[@LABEL]")
    parser.add_argument("--python", nargs="+", default=[], type=pair, metavar="CONTENDER=PYTHON")
    parser.add_argument(
        "--path", nargs="+", default=[], type=pair, metavar="CONTENDER=FOLDER",
        help="first on its PYTHONPATH, such as t5jax@before=OTHER_CLONE",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of a turn (8)")
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()
    contenders = [
        Contender(
            name,
            arguments.dtype,
            dict(arguments.python).get(name, sys.executable),
            dict(arguments.path).get(name),
        )
        for name in arguments.contenders
    ]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = arguments.vocabulary or f"{folder}/vocabulary.model"
        if not arguments.vocabulary:
            call("t5jax.cli", "vocabulary", arguments.task, vocabulary, "--size", "8000")
        call("contenders.checkpoint", arguments.variant, f"{folder}/model")
        write_examples(f"{folder}/model", examples(arguments.task, vocabulary))
        case = {
            "rows": arguments.rows, "examples": arguments.examples, "dropout": arguments.dropout,
            "task": arguments.task, "vocabulary": vocabulary,
        }  # fmt: skip
        try:
            with processes(contenders, "finetuning", f"{folder}/model") as started:
                for process in started:
                    process.prepare(**case)
                seconds = take_turns(started, arguments.rounds, arguments.steps)
        except Failed as error:
            raise SystemExit(f"error: {error}") from None
    rows = report.rows({**case, "dtype": arguments.dtype}, seconds, str(contenders[0]))
    print("\n| | tokens/s | ours is … x as fast (of a round) |\n|---|---|---|")
    for row in rows:
        spread = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        print(f"| {row['contender']} | {1 / row['seconds']:.0f} | {spread} |")
    report.write(arguments.json, {"subject": "finetuning", "variant": arguments.variant}, rows)


def call(*words: str) -> None:
    """Runs a Python module."""
    if subprocess.run([sys.executable, "-m", *words], cwd=SCRIPTS).returncode:
        raise SystemExit("error: see above")


def examples(task: str, vocabulary: str, most: int = 4096) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids of the inputs and targets of a task's examples, shuffled."""
    from t5jax.tasks import registry
    from t5jax.vocabulary import make_vocabulary

    ids = registry.seqio_vocabulary(make_vocabulary(vocabulary))
    data = registry.with_vocabulary(task, ids).get_dataset(None, "train", shuffle=True, seed=0)
    return [(row["inputs"], row["targets"]) for row in data.take(most).as_numpy_iterator()]


if __name__ == "__main__":
    main()
