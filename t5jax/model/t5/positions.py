"""T5's relative position buckets."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from t5jax.model.t5.config import T5Config


def relative_position_bucket(
    relative_position: jax.Array, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> jax.Array:
    """Bucket of each `relative_position` (key minus query); int32 of the same shape.

    Half of the buckets are exact, half grow logarithmically up to `max_distance`. Bidirectional
    buckets are half for each sign; otherwise the future is bucket 0. Raffel et al. 2020
    (arXiv:1910.10683), section 2.1.
    """
    start = jnp.zeros_like(relative_position)
    if bidirectional:
        num_buckets //= 2
        start = jnp.where(relative_position > 0, num_buckets, 0)
        distance = jnp.abs(relative_position)
    else:
        distance = jnp.maximum(-relative_position, 0)
    exact = num_buckets // 2
    # float32 and truncation are part of the definition; another precision moves boundaries.
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    ratio = ratio / jnp.log(jnp.float32(max_distance / exact))
    far = jnp.minimum(exact + (ratio * (num_buckets - exact)).astype(jnp.int32), num_buckets - 1)
    return start + jnp.where(distance < exact, distance, far)


def buckets(
    config: T5Config, queries: jax.Array, keys: jax.Array, *, bidirectional: bool
) -> jax.Array:
    """Positions of queries int[T] and keys int[S] -> int32[T, S]."""
    return relative_position_bucket(
        keys[None, :] - queries[:, None],
        bidirectional=bidirectional,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
    )
