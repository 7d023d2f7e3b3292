"""The keys that chunks of queries can see: in packed and in short rows, a part of all.

Attention in chunks costs what it reads of the keys. Every chunk of a row reads as many, from a
place of its own: the fewest that hold what each can see. So the choice stands outside of the loop
over chunks, where rows that need all keys do not pay for it; inside, it would cost them a quarter.

Letters: G rows at once, S keys, K chunks, C queries of a chunk; W keys that a chunk reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Tried as W: the keys, divided by these.
PARTS = (4, 2, 1)


def widths(keys: int, chunk: int) -> list[int]:
    """The numbers W of keys that a chunk may read, ascending; the last is all of S."""
    return sorted({min(keys, max(chunk, -(-keys // parts))) for parts in PARTS})


def extents(queries: jax.Array, keys: jax.Array, causal: bool) -> tuple[jax.Array, jax.Array]:
    """Segment ids int[G, K, C] of queries and int[G, S] of keys -> first, end int[K].

    Every key that a query of chunk K sees in any row lies from `first` to before `end`, which are 0
    for a chunk that sees none.
    """
    length, (_, chunks, chunk) = keys.shape[1], queries.shape
    used = queries != 0
    low = jnp.min(jnp.where(used, queries, jnp.iinfo(queries.dtype).max), axis=2)[..., None]
    high = jnp.max(jnp.where(used, queries, 0), axis=2)[..., None]
    seen = (keys[:, None] >= low) & (keys[:, None] <= high)
    seen = jnp.any(seen & (keys != 0)[:, None], axis=0)
    at = jnp.arange(length)
    if causal:
        seen &= at < chunk * (jnp.arange(chunks) + 1)[:, None]
    first = jnp.argmax(seen, axis=1)
    return first, jnp.max(jnp.where(seen, at + 1, 0), axis=1)


def in_windows(
    run: Callable[[int, jax.Array], Any], extents: tuple[jax.Array, jax.Array], sizes: list[int]
) -> Any:
    """`run(W, starts)` with the smallest of `sizes` that holds each chunk's keys.

    Args:
      extents: as the function `extents` gives them.
      sizes: numbers W of keys, as `widths` gives them.
      run: computes with W keys from `starts` int[K] on; the same shapes whatever W.
    """
    first, end = extents
    if len(sizes) == 1:
        return run(sizes[0], jnp.zeros_like(first))
    needed, keys = jnp.max(end - first), sizes[-1]
    choice = jnp.sum(needed > jnp.array(sizes[:-1]))
    return jax.lax.switch(
        choice, [lambda w=w: run(w, jnp.minimum(first, keys - w)) for w in sizes]
    )  # fmt: skip
