"""Writes a checkpoint of random weights in Hugging Face's format, which every contender reads.

python -m contenders.checkpoint VARIANT FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import t5jax
from t5jax.formats import huggingface
from t5jax.formats.checkpoint import About, SingleTensors, tensors_of
from t5jax.model.parameters import init_params


def random_params(config: t5jax.T5Config) -> Any:
    """Random parameters in the training layout, of NumPy."""
    params = jax.device_get(init_params(config, jax.random.key(0)))
    # With scales of 1, a tied model of random weights repeats its input id.
    norm = params["decoder"]["norm"]
    norm["scale"] = np.random.default_rng(0).standard_normal(norm["scale"].shape, np.float32)
    return params


def main() -> None:
    variant, folder = sys.argv[1:]
    config = t5jax.VARIANTS[variant]
    tensors = tensors_of(config, random_params(config))
    huggingface.write(Path(folder), SingleTensors(About(config), tensors))


if __name__ == "__main__":
    main()
