"""The T5 family in JAX: load a checkpoint, generate, score, embed; train and evaluate with seqio.

    t5 = t5jax.load("runs/words")
    t5.generate("pronounce: hello")

This package imports neither TensorFlow nor seqio; `t5jax.tasks` and the training modules do.
"""

from t5jax import starting  # noqa: F401  (first: what comes after takes seconds)
from t5jax.model.t5.config import VARIANTS, T5Config
from t5jax.model.t5.network import T5
from t5jax.text2text import Encoded, Generation, Text2Text, load

__all__ = ["T5", "VARIANTS", "Encoded", "Generation", "T5Config", "Text2Text", "load"]
__version__ = "0.1.0"
