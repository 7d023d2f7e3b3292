"""What every contender is given alike: random inputs of a case, examples of a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

EXAMPLES = "examples.json"


def random_ids(folder: str, rows: int, length: int, seed: int = 0) -> np.ndarray:
    """int64[rows, length] of the checkpoint's vocabulary, without padding, EOS and unknown."""
    size = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
    return np.random.default_rng(seed).integers(3, size, (rows, length))


def write_examples(folder: str, examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes the ids of examples' inputs and targets beside the model."""
    lists = [[x.tolist() for x in pair] for pair in examples]
    (Path(folder) / EXAMPLES).write_text(json.dumps(lists))


def read_examples(folder: str) -> list[tuple[list[int], list[int]]]:
    """Inputs and targets of every example."""
    return [(x, y) for x, y in json.loads((Path(folder) / EXAMPLES).read_text())]
