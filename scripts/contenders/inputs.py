"""Inputs of a case, the same for every contender."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def random_ids(folder: str, rows: int, length: int, seed: int = 0) -> np.ndarray:
    """int64[rows, length] of the checkpoint's vocabulary, without padding, EOS and unknown."""
    size = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
    return np.random.default_rng(seed).integers(3, size, (rows, length))
