"""`KVCache`: the decoder's keys and values, which a step takes and returns.

A layer's keys are [B, N, H, T] and its values [B, N, T, H]; see `t5jax.ops.cached_attention`.

The K beams of an input share one row; position t has slots t*K to t*K + K-1: keys [B, N, H, T*K],
values [B, N, T*K, H]. A beam that continues another beam copies nothing: `ancestry` of
`t5jax.model.contract.Network` says which slots hold its past.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.ops.cached_attention import folded


@flax.struct.dataclass
class KVCache:
    """Keys and values, an array a decoder layer; positions from the step's index on are unused."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    beams: int = flax.struct.field(pytree_node=False, default=1)

    @classmethod
    def init(
        cls, batch: int, length: int, *, layers: int, heads: int, width: int, dtype: Any, beams: int
    ) -> KVCache:
        """An empty cache for `batch` rows of `beams` beams of `length` positions."""
        b, n = folded(batch, heads)
        slots = length * beams
        return cls(
            tuple(jnp.zeros((b, n, width, slots), dtype) for _ in range(layers)),
            tuple(jnp.zeros((b, n, slots, width), dtype) for _ in range(layers)),
            beams,
        )

    def extend(self, length: int) -> KVCache:
        """The cache with `length` positions, more than before."""
        more = (0, (length - self.length) * self.beams)
        none = (0, 0)
        return KVCache(
            tuple(jnp.pad(x, (none, none, none, more)) for x in self.keys),
            tuple(jnp.pad(x, (none, none, more, none)) for x in self.values),
            self.beams,
        )

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.keys[0].shape[-1] // self.beams
