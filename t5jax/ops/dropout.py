"""Dropout: of single entries, or with one mask for the axis -2 (length, or queries), as in T5X.

One mask regularises as well and draws a fraction of the random bits, which are the cost of dropout
on a CPU: 4.2 million take 40 ms with threefry and rbg alike (2 cores).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes entries of `x` with probability `rate` and scales the rest; identity without `key`."""
    if key is None or rate == 0.0:
        return x
    return _drop(x, rate, _kept((*x.shape[:-2], 1, x.shape[-1]), rate, key))


def drop_entries(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """As `dropout`, each entry on its own."""
    if key is None or rate == 0.0:
        return x
    return _drop(x, rate, _kept(x.shape, rate, key))


def drop_keys(v: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Values [B, S, N, H]: zeroes keys of a head, and scales the rest; identity without `key`.

    This is `dropout` of attention weights [B, N, T, S], with a mask that is shared by the queries.
    """
    if key is None or rate == 0.0:
        return v
    rows, keys, heads, _ = v.shape
    kept = _kept((rows, heads, 1, keys), rate, key)
    return _drop(v, rate, kept.transpose(0, 3, 1, 2))


def _kept(shape: tuple[int, ...], rate: float, key: jax.Array) -> jax.Array:
    # Compares integers, not fractions of them: XLA repeats this for every entry, forward and
    # backward.
    return jax.random.bits(key, shape, jnp.uint32) >= np.uint32(round(rate * 2**32))


def _drop(x: jax.Array, rate: float, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros((), x.dtype))
