"""Logit processors: pure functions that forbid ids before one is picked."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def keep_below(logits: jax.Array, limit: int) -> jax.Array:
    """Forbids ids from `limit` on: rows that pad the embedding belong to no token."""
    if limit >= logits.shape[-1]:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < limit, logits, -jnp.inf)


def no_end_before(
    logits: jax.Array, index: jax.Array, min_new_tokens: jax.Array, eos_ids: Sequence[int]
) -> jax.Array:
    """Forbids EOS at positions (from 0) before `min_new_tokens`."""
    ends = jnp.isin(jnp.arange(logits.shape[-1]), jnp.asarray(eos_ids))
    return jnp.where(ends & (index < min_new_tokens), -jnp.inf, logits)
