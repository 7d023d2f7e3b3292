"""`KVCache`: the keys and values of tokens decoded so far, an explicit value.

`decode_step` takes a cache and returns the next one. A layer's keys are [B, N, H, T] and its values
[B, N, T, H]: what a step's two products read in order, so that nothing is transposed. Layers are
in a tuple where the network is unrolled, stacked in front, [L, B, …], where it is scanned.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.model.config import T5Config


@flax.struct.dataclass
class KVCache:
    """Keys and values of every decoder layer; positions from the current index on are unwritten."""

    keys: Any
    values: Any

    @classmethod
    def init(
        cls, config: T5Config, batch: int, length: int, *, dtype: Any, stacked: bool
    ) -> KVCache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        n, h, layers = config.num_heads, config.d_kv, config.num_decoder_layers
        # A single row is kept as two of half the heads: over a dimension of 1 XLA CPU fuses the
        # writing with the reading, and copies every cache at every step.
        if batch == 1 and n % 2 == 0:
            batch, n = 2, n // 2

        def zeros(*shape: int) -> Any:
            if stacked:
                return jnp.zeros((layers, batch, *shape), dtype)
            return tuple(jnp.zeros((batch, *shape), dtype) for _ in range(layers))

        return cls(zeros(n, h, length), zeros(n, length, h))

    @property
    def length(self) -> int:
        """Positions that fit."""
        return jax.tree.leaves(self.keys)[0].shape[-1]


def write_keys(cache: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
    """cache [B, N, H, T] with new [B, N, H] at position `index` of all rows."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new[:, :, :, None], index, axis=3)


def write_values(cache: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
    """cache [B, N, T, H] with new [B, N, H] at position `index` of all rows."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new[:, :, None], index, axis=2)
