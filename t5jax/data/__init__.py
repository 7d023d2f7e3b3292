"""Batches of seqio tasks and mixtures, on the mesh, exactly resumable."""

from t5jax.data.loader import TrainData

__all__ = ["TrainData"]
