"""Parts of `t5jax.evaluate`, and the comparison of two models."""
