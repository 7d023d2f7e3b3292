"""Attention of new tokens to a KV cache.

Keys are [B, N, H, S] and values [B, N, S, H], so a step transposes nothing. Two tricks for CPUs:

- Fold: a single row is stored as two rows of half the heads. Over a dimension of 1 XLA fuses the
  write with the read, and copies every cache at every step.
- Barrier: with several tokens or beams a row, XLA would fuse the transposition after attention into
  the product of weights and values. Its CPU library lacks that product; XLA's own loop takes four
  to six times as long.

Letters: B rows, K new tokens (or beams) of a row, S slots, N heads, H head_dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from t5jax.ops.masks import MASKED


def attend_kept(
    q: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None, mask: jax.Array
) -> jax.Array:
    """q [B, K, N, H] -> [B, K, N, H].

    Args:
      keys, values: [B, N, H, S] and [B, N, S, H].
      bias, mask: float32 or None, and bool, broadcastable to [B, N, K, S].
    """
    logits = jnp.einsum("BKNH,BNHS->BNKS", q, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(jnp.where(mask, logits, MASKED)).astype(values.dtype)
    y = jnp.einsum("BNKS,BNSH->BNKH", weights, values)
    return (jax.lax.optimization_barrier(y) if y.shape[2] > 1 else y).swapaxes(1, 2)


def attend_cache(
    new: tuple[jax.Array, jax.Array, jax.Array],
    cache: tuple[jax.Array, jax.Array],
    slot: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Writes K new tokens a row to the cache, then attends to it.

    Args:
      new: queries, keys and values, [B, K, N, H] each.
      cache: folded keys and values of S slots.
      slot: int32 scalar, the new tokens' first slot.
      bias: float32[N, K or 1, S], or None.
      mask: bool[B or 1, 1, K, S], the slots that each new token sees.

    Returns:
      [B, K, N, H], and the cache with the new tokens.
    """
    batch, rows = len(new[0]), len(cache[0])
    q, k, v = (_fold(x, rows) for x in new)
    if bias is not None:
        bias = bias.reshape(-1, q.shape[2], *bias.shape[1:])
    write = jax.lax.dynamic_update_slice_in_dim
    keys = write(cache[0], k.transpose(0, 2, 3, 1), slot, axis=3)
    values = write(cache[1], v.swapaxes(1, 2), slot, axis=2)
    return _unfold(attend_kept(q, keys, values, bias, mask), batch), (keys, values)


def folded(batch: int, heads: int) -> tuple[int, int]:
    """Rows and heads of a cache for `batch` rows."""
    return (2, heads // 2) if batch == 1 and heads % 2 == 0 else (batch, heads)


def _fold(x: jax.Array, rows: int) -> jax.Array:
    """[B, K, N, H] -> [rows, K, B*N/rows, H]."""
    batch, new, heads, width = x.shape
    x = x.reshape(batch, new, rows // batch, -1, width)
    return x.swapaxes(1, 2).reshape(rows, new, batch * heads // rows, width)


def _unfold(x: jax.Array, batch: int) -> jax.Array:
    """The inverse of `_fold`: [rows, K, N', H] -> [batch, K, N, H]."""
    rows, new, _, width = x.shape
    x = x.reshape(batch, rows // batch, new, -1, width)
    return x.swapaxes(1, 2).reshape(batch, new, -1, width)
