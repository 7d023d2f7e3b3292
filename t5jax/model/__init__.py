"""Models: the contract, the families and their registration, the KV cache, parameter trees."""

from t5jax.model import t5  # noqa: F401, I001  (a family registers itself; the first is the default)
from t5jax.model import bart  # noqa: F401
