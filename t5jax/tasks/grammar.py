"""Grammar correction as text: `grammar: She go home.` -> `She goes home.`

TFDS has no such data set; `correct` is a preprocessor for your own.
"""

from __future__ import annotations

import tensorflow as tf

from t5jax.tasks.text import RawExample


def correct(
    row: RawExample, source: str = "source", target: str = "target"
) -> dict[str, tf.Tensor]:
    """A row -> `grammar: ` and its field `source`; the target is its field `target`."""
    return {
        "inputs": tf.strings.join(["grammar:", row[source]], separator=" "),
        "targets": row[target],
    }
