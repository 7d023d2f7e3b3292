"""Models: the contract, the families and their registration, the KV cache, parameter trees."""

from t5jax.model import t5  # noqa: F401  (a family registers itself)
