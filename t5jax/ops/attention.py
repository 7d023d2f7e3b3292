"""Attention as free functions.

Letters of the einsums: B batch, T query, S key/value, D model, N heads, H head_dim, G rows that
share one encoder input.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Added to no logit but put in its place, so a row with nothing to see stays finite.
MASKED = -1e9


def relative_position_bucket(
    relative_position: jax.Array, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> jax.Array:
    """Bucket of each `relative_position` (key minus query); int32 of the same shape.

    Half of the buckets are exact, half grow logarithmically up to `max_distance`. Bidirectional:
    one half of all buckets for each sign. Otherwise only the past has buckets; the future is 0.
    Raffel et al. 2020 (arXiv:1910.10683), section 2.1.
    """
    start = jnp.zeros_like(relative_position)
    if bidirectional:
        num_buckets //= 2
        start = jnp.where(relative_position > 0, num_buckets, 0)
        distance = jnp.abs(relative_position)
    else:
        distance = jnp.maximum(-relative_position, 0)
    exact = num_buckets // 2
    # float32 and truncation are part of the definition: another precision moves the boundaries.
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    ratio = ratio / jnp.log(jnp.float32(max_distance / exact))
    far = exact + (ratio * (num_buckets - exact)).astype(jnp.int32)
    far = jnp.minimum(far, num_buckets - 1)
    return start + jnp.where(distance < exact, distance, far)


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """int[B, T], int[B, S] -> bool[B, 1, T, S]: same segment, and the key is no padding (0)."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments != 0)[:, None, :])[:, None]


def causal_mask(length: int) -> jax.Array:
    """bool[1, 1, T, T]: each position sees itself and those before it."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes entries of `x` with probability `rate` and scales the rest; none without a `key`.

    One mask serves the whole axis -2 (length, or queries), as in T5X: it regularises as well and
    draws a fraction of the random numbers.
    """
    if key is None or rate == 0.0:
        return x
    shape = (*x.shape[:-2], 1, x.shape[-1])
    # Whole numbers are compared, not fractions made of them: XLA repeats this for every entry of
    # x, and once more in the backward pass.
    keep = jax.random.bits(key, shape, jnp.uint32) >= np.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


@jax.custom_vjp
def _add_bias(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """[B, N, T, S] plus [N, T, S].

    The gradient of the bias is summed over the batch by a matrix product, which on a CPU costs a
    tenth of a plain reduction over the first axis.
    """
    return logits + bias


def _add_bias_forward(logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return logits + bias, None


def _add_bias_backward(_: None, ct: jax.Array) -> tuple[jax.Array, jax.Array]:
    return ct, jnp.tensordot(jnp.ones(ct.shape[0], ct.dtype), ct, 1)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array,
    *,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """q [B, T, N, H], k and v [B, S, N, H] -> [B, T, N, H]; softmax in float32.

    Args:
      bias: float32[N, T, S], added to the logits; or None.
      mask: bool, broadcastable to [B, N, T, S]; True where attention may go.
    """
    weights = attention_weights(q, k, bias, mask).astype(v.dtype)
    weights = dropout(weights, dropout_rate, dropout_key)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v)


def attention_weights(
    q: jax.Array, k: jax.Array, bias: jax.Array | None, mask: jax.Array
) -> jax.Array:
    """The softmax of `attend`, of the same arguments: float32[B, N, T, S]."""
    # No 1/sqrt(H): T5 folds it into the query's init; adding it breaks released checkpoints.
    logits = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = _add_bias(logits, bias)
    return jax.nn.softmax(jnp.where(mask, logits, MASKED))


def attend_step(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, mask: jax.Array
) -> jax.Array:
    """One decoding step: q [B, G, N, H], k [B, N, H, S], v [B, N, S, H] -> [B, G, N, H].

    Args:
      bias: float32[N, G or 1, S] or None.
      mask: bool, broadcastable to [B, N, G, S].
    """
    logits = jnp.einsum("BGNH,BNHS->BNGS", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(jnp.where(mask, logits, MASKED)).astype(v.dtype)
    y = jnp.einsum("BNGS,BNSH->BNGH", weights, v)
    # XLA would make the transposition a part of the product, which a CPU's library has not: its
    # own takes four to six times as long. With one token there is nothing to transpose.
    return (jax.lax.optimization_barrier(y) if y.shape[2] > 1 else y).swapaxes(1, 2)
