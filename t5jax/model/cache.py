"""`KVCache`: the keys and values of tokens decoded so far, an explicit value.

`decode_step` takes a cache and returns the next one. Leaves are [B, N, T, H] a layer (heads before
positions: one step's products then read memory in order), in a tuple over layers where the
network is unrolled and stacked in front, [L, B, N, T, H], where it is scanned.
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
    def init(cls, config: T5Config, batch: int, length: int, *, dtype: Any, scan: bool) -> KVCache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        shape = (batch, config.num_heads, length, config.d_kv)
        layers = config.num_decoder_layers

        def zeros() -> Any:
            if scan:
                return jnp.zeros((layers, *shape), dtype)
            return tuple(jnp.zeros(shape, dtype) for _ in range(layers))

        return cls(zeros(), zeros())

    @property
    def length(self) -> int:
        """Positions that fit."""
        return jax.tree.leaves(self.keys)[0].shape[-2]


def write(cache: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
    """cache [B, N, T, H] with new [B, N, H] at position `index` of all rows."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new[:, :, None], index, axis=2)
