"""`KVCache`: the keys and values of tokens decoded so far, an explicit value.

A decoding step takes a cache and returns the next one. A layer's keys are [B, N, H, T] and its
values [B, N, T, H]; see `t5jax.ops.cached_attention`.

The K beams of an input lie side by side in one row, position t's in the slots t*K to t*K + K-1:
keys [B, N, H, T*K], values [B, N, T*K, H]. A beam that goes on from another one copies nothing: the
step is told which slots hold its past (`ancestry` of `t5jax.model.contract.Network`).
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.ops.cached_attention import folded


@flax.struct.dataclass
class KVCache:
    """Keys and values, an array a decoder layer; positions from the index on are unwritten."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    beams: int = flax.struct.field(pytree_node=False, default=1)

    @classmethod
    def init(
        cls, batch: int, length: int, *, layers: int, heads: int, width: int, dtype: Any, beams: int
    ) -> KVCache:
        """An empty cache for `batch` rows of `beams` beams of up to `length` tokens.

        `heads` and `width` are those of the keys.
        """
        b, n = folded(batch, heads)
        slots = length * beams
        return cls(
            tuple(jnp.zeros((b, n, width, slots), dtype) for _ in range(layers)),
            tuple(jnp.zeros((b, n, slots, width), dtype) for _ in range(layers)),
            beams,
        )

    def extend(self, length: int) -> KVCache:
        """With room for `length` positions; what is written stays."""
        more = (0, (length - self.length) * self.beams)
        none = (0, 0)
        return KVCache(
            tuple(jnp.pad(x, (none, none, none, more)) for x in self.keys),
            tuple(jnp.pad(x, (none, none, more, none)) for x in self.values),
            self.beams,
        )

    @property
    def length(self) -> int:
        """Positions that fit."""
        return self.keys[0].shape[-1] // self.beams
