"""The commands."""

from t5jax.cli.entry import main

__all__ = ["main"]
