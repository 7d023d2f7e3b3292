"""`Encoded`: encoder output, to generate from any number of times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Encoded:
    """Encoder output for B inputs: `hidden` [B, S, D], zero at padding; `mask` bool[B, S].

    `pooled` is one vector an input.

    `encoded[i]`, `encoded[1:3]`, `encoded[[2, 0]]` and `encoded[bool[B]]` are some of the inputs,
    an `Encoded` each (of one input, where i is a number); `Encoded.join` is the way back.
    """

    hidden: jax.Array
    mask: jax.Array
    # What was encoded, int32[B, S]: sampling is seeded by the input, not by its place in a batch.
    ids: np.ndarray = flax.struct.field(pytree_node=False)
    pad: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def pooled(self) -> jax.Array:
        """float32[B, D]: the mean of `hidden` over each input's tokens, its EOS counted."""
        there = self.mask[..., None]
        total = jnp.sum(jnp.where(there, self.hidden.astype(jnp.float32), 0.0), axis=1)
        return total / jnp.maximum(jnp.sum(there, axis=1), 1)

    def padded(self, rows: int) -> tuple[jax.Array, jax.Array]:
        """Hidden states and mask with rows of padding added up to `rows`."""
        extra = rows - len(self)
        if extra == 0:
            return self.hidden, self.mask
        return (
            jnp.pad(self.hidden, ((0, extra), (0, 0), (0, 0))),
            jnp.pad(self.mask, ((0, extra), (0, 0))),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Encoded:
        rows = np.arange(len(self))
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0:
                index = index.astype(int)
            if index.ndim > 1 or index.dtype.kind not in "iub":
                raise TypeError(
                    "an Encoded is indexed by the inputs' numbers: one, a slice, a list of them, "
                    "or a bool for each"
                )
        rows = np.atleast_1d(rows[index])
        return Encoded(self.hidden[rows], self.mask[rows], self.ids[rows], self.pad)

    def __iter__(self) -> Iterator[Encoded]:
        return (self[i] for i in range(len(self)))

    @staticmethod
    def join(parts: Iterable[Encoded]) -> Encoded:
        """Inputs of several, encoded by one model, in order; shorter ones get padding.

        Raises:
          TypeError: a part is no `Encoded`. ValueError: there is none, or they are of models that
            differ in width, type or padding.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("join: give at least one Encoded")
        for part in parts:
            if not isinstance(part, Encoded):
                raise TypeError(f"join: {type(part).__name__} is no Encoded")
        kinds = {(part.hidden.shape[-1], str(part.hidden.dtype), part.pad) for part in parts}
        if len(kinds) > 1:
            raise ValueError(f"join: encoded by models of (width, dtype, padding) {sorted(kinds)}")
        width = max(part.ids.shape[1] for part in parts)

        def wider(x: Any, fill: int, xp: Any) -> Any:
            missing = [(0, 0), (0, width - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
            return xp.pad(x, missing, constant_values=fill)

        return Encoded(
            jnp.concatenate([wider(part.hidden, 0, jnp) for part in parts]),
            jnp.concatenate([wider(part.mask, 0, jnp) for part in parts]),
            np.concatenate([wider(part.ids, part.pad, np) for part in parts]),
            parts[0].pad,
        )
