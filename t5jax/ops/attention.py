"""Attention over whole sequences.

Letters: B batch, T query, S key/value, N heads, H head_dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from t5jax.ops.dropout import dropout
from t5jax.ops.gradients import add_bias

# Replaces masked logits: finite, not -inf, so that a fully masked row does not give NaN.
MASKED = -1e9


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """int[B, T], int[B, S] -> bool[B, 1, T, S]: same segment, and the key is not padding (0)."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments != 0)[:, None, :])[:, None]


def causal_mask(length: int) -> jax.Array:
    """bool[1, 1, T, T]: each position sees itself and earlier positions."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def attention_weights(
    q: jax.Array, k: jax.Array, bias: jax.Array | None, mask: jax.Array
) -> jax.Array:
    """q [B, T, N, H], k [B, S, N, H] -> float32[B, N, T, S], softmax over S.

    There is no 1/sqrt(H): T5 has it in its initial queries, and adding it breaks released
    checkpoints.

    Args:
      bias: float32[N, T, S], added to the logits; or None.
      mask: bool, broadcastable to [B, N, T, S]; True where attention may go.
    """
    logits = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = add_bias(logits, bias)
    return jax.nn.softmax(jnp.where(mask, logits, MASKED))


def mix(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Weights [B, N, T, S] with v [B, S, N, H] -> [B, T, N, H]."""
    return jnp.einsum("BNTS,BSNH->BTNH", weights.astype(v.dtype), v)


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
    """q [B, T, N, H], k and v [B, S, N, H] -> [B, T, N, H], with dropout of the weights."""
    weights = attention_weights(q, k, bias, mask).astype(v.dtype)
    return mix(dropout(weights, dropout_rate, dropout_key), v)
