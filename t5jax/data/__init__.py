"""seqio tasks and mixtures to batches on the mesh, resumable exactly."""

from t5jax.data.loader import TrainData, eval_batches

__all__ = ["TrainData", "eval_batches"]
