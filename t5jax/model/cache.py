"""`KVCache`: the keys and values of tokens decoded so far, an explicit value.

`decode_step` takes a cache and returns the next one. A layer's keys are [B, N, H, T] and its values
[B, N, T, H]: what a step's two products read in order, so that nothing is transposed. Layers are
in a tuple where the network is unrolled, stacked in front, [L, B, …], where it is scanned.

The K beams of an input lie side by side in one row, position t's in the slots t*K to t*K + K-1:
keys [B, N, H, T*K], values [B, N, T*K, H]. A beam that goes on from another one copies nothing: it
is told which slots hold its past (`ancestry` of `decode_step`).
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class KVCache:
    """Keys and values of every decoder layer; positions from the current index on are unwritten."""

    keys: Any
    values: Any
    beams: int = flax.struct.field(pytree_node=False, default=1)

    @classmethod
    def init(
        cls,
        batch: int,
        length: int,
        *,
        layers: int,
        heads: int,
        width: int,
        dtype: Any,
        stacked: bool,
        beams: int = 1,
    ) -> KVCache:
        """An empty cache for `batch` rows of up to `length` tokens, or rows of `beams` beams.

        `heads` and `width` are those of the keys; `stacked` has layers on a leading axis.
        """
        n, h = heads, width
        # A single row is kept as two of half the heads: over a dimension of 1 XLA CPU fuses the
        # writing with the reading, and copies every cache at every step.
        if batch == 1 and n % 2 == 0:
            batch, n = 2, n // 2

        def zeros(*shape: int) -> Any:
            if stacked:
                return jnp.zeros((layers, batch, *shape), dtype)
            return tuple(jnp.zeros((batch, *shape), dtype) for _ in range(layers))

        return cls(zeros(n, h, length * beams), zeros(n, length * beams, h), beams)

    def extend(self, length: int) -> KVCache:
        """With room for `length` positions; what is written stays."""
        more = (length - self.length) * self.beams

        def pad(x: jax.Array, axis: int) -> jax.Array:
            return jnp.pad(x, [(0, more if i == axis % x.ndim else 0) for i in range(x.ndim)])

        keys = jax.tree.map(lambda x: pad(x, -1), self.keys)
        return KVCache(keys, jax.tree.map(lambda x: pad(x, -2), self.values), self.beams)

    @property
    def length(self) -> int:
        """Positions that fit."""
        return jax.tree.leaves(self.keys)[0].shape[-1] // self.beams


def write_keys(cache: jax.Array, new: jax.Array, slot: jax.Array) -> jax.Array:
    """cache [B, N, H, T] with new [B, K, N, H] in K slots from `slot` on, of all rows."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new.transpose(0, 2, 3, 1), slot, axis=3)


def write_values(cache: jax.Array, new: jax.Array, slot: jax.Array) -> jax.Array:
    """cache [B, N, T, H] with new [B, K, N, H] in K slots from `slot` on, of all rows."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new.swapaxes(1, 2), slot, axis=2)


def fold_heads(x: jax.Array, rows: int) -> jax.Array:
    """[B, K, N, H] -> [rows, K, B*N/rows, H]: heads in two halves where a single row is kept so."""
    batch, beams, heads, width = x.shape
    x = x.reshape(batch, beams, rows // batch, -1, width)
    return x.swapaxes(1, 2).reshape(rows, beams, batch * heads // rows, width)


def unfold_heads(x: jax.Array, batch: int) -> jax.Array:
    """The inverse of `fold_heads`: [rows, K, N', H] -> [batch, K, N, H]."""
    rows, beams, _, width = x.shape
    x = x.reshape(batch, rows // batch, beams, -1, width)
    return x.swapaxes(1, 2).reshape(batch, beams, -1, width)
