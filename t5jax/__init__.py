"""The T5 family in JAX: load a checkpoint, generate, score, embed; train and evaluate with seqio.

    t5 = t5jax.load("runs/words")
    t5.generate("pronounce: hello")

This package imports neither TensorFlow nor seqio; `t5jax.tasks` and the training modules do. JAX
itself is imported with the first name below that is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from t5jax import starting  # noqa: F401  (first: what comes after may take seconds)

if TYPE_CHECKING:
    from t5jax.engine.encoded import Encoded
    from t5jax.engine.results import Generation
    from t5jax.loading import load
    from t5jax.model.t5.config import T5Config
    from t5jax.model.t5.network import T5
    from t5jax.model.t5.variants import VARIANTS
    from t5jax.text2text import Text2Text

__all__ = ["T5", "VARIANTS", "Encoded", "Generation", "T5Config", "Text2Text", "load"]
__version__ = "0.1.0"

_MODULES = {
    "Encoded": "engine.encoded",
    "Generation": "engine.results",
    "T5": "model.t5.network",
    "VARIANTS": "model.t5.variants",
    "T5Config": "model.t5.config",
    "Text2Text": "text2text",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"t5jax.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
