"""Masks of attention."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

# Replaces masked logits: finite, not -inf, so that a fully masked row does not give NaN.
MASKED = -1e9


@flax.struct.dataclass
class SegmentMask:
    """Queries see the keys of their segment, and with `causal` none behind their own position.

    `queries` int[B, T] and `keys` int[B, S] are segment ids. A key of segment 0 is padding, which
    no query sees.
    """

    queries: jax.Array
    keys: jax.Array
    causal: bool = flax.struct.field(pytree_node=False, default=False)

    def dense(self) -> jax.Array:
        """bool[B, 1, T, S]: True where attention may go."""
        mask = segment_mask(self.queries, self.keys)
        return mask & _causal(*mask.shape[2:]) if self.causal else mask


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """int[B, T], int[B, S] -> bool[B, 1, T, S]: same segment, and the key is not padding (0)."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments != 0)[:, None, :])[:, None]


def _causal(queries: int, keys: int) -> jax.Array:
    return jnp.arange(keys) <= jnp.arange(queries)[:, None]
