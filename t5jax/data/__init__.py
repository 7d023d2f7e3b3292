"""seqio tasks and mixtures to batches on the mesh, resumable exactly."""

from t5jax.data.loader import TrainData

__all__ = ["TrainData"]
