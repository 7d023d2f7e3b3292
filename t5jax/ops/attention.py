"""Attention over whole sequences.

Letters: B batch, T query, S key/value, N heads, H head_dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from t5jax.ops.backend import on_one_cpu
from t5jax.ops.chunked_attention import attend_in_chunks
from t5jax.ops.dropout import drop_keys
from t5jax.ops.gradients import add_bias
from t5jax.ops.grouped_attention import attend_in_groups
from t5jax.ops.masks import MASKED, SegmentMask

# Scores of a head from which they are computed in chunks. T5-small encodes 2 x 1024 tokens 1.14
# times as fast so, 1 x 2048 1.65 times (2 cores).
SCORES = 2**19
# Below that, on one CPU: scores of a group of rows, and the most groups, which are unrolled.
GROUP_SCORES, GROUPS = 2**20, 16
# Queries of a chunk: on one CPU its scores stay in the cache, elsewhere memory is saved.
CPU_CHUNK, CHUNK = 128, 512


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: SegmentMask,
    *,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """q [B, T, N, H], k and v [B, S, N, H] -> [B, T, N, H], with dropout of the weights.

    There is no 1/sqrt(H): T5 has it in its initial queries, and adding it breaks released
    checkpoints. Softmax is in float32.

    Args:
      bias: float32, of the positions that `bias_positions(T, S)` gives, added to the logits; or
        None.
      mask: the keys that each query sees. What a query that sees none gives is finite, and has no
        meaning.
    """
    # The weights of a key are dropped for all queries alike, so its values can be dropped instead.
    v = drop_keys(v, dropout_rate, dropout_key)
    chunk = _chunk(q.shape[1], k.shape[1])
    if chunk is not None:
        together = 1 if on_one_cpu() else len(q)
        return attend_in_chunks(q, k, v, bias, mask, chunk=chunk, together=together)
    if on_one_cpu() and q.size and k.size:
        return attend_in_groups(q, k, v, bias, mask, group=_group(q, k))
    return mix(attention_weights(q, k, bias, mask.dense()), v)


def bias_positions(queries: int, keys: int) -> tuple[jax.Array, jax.Array]:
    """The positions whose bias `attend` takes, a row a query and a column a key.

    All T queries and S keys; in chunks of C queries, C and T + S (`t5jax.ops.chunked_attention`).
    """
    chunk = _chunk(queries, keys)
    if chunk is None:
        return jnp.arange(queries), jnp.arange(keys)
    return jnp.arange(chunk), jnp.arange(-queries, keys)


def attention_weights(
    q: jax.Array, k: jax.Array, bias: jax.Array | None, mask: jax.Array
) -> jax.Array:
    """q [B, T, N, H], k [B, S, N, H] -> float32[B, N, T, S], softmax over S.

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


def _group(q: jax.Array, k: jax.Array) -> int:
    """Rows whose scores are computed together."""
    rows, queries, heads, _ = q.shape
    return max(1, GROUP_SCORES // (heads * queries * k.shape[1]), -(-rows // GROUPS))


def _chunk(queries: int, keys: int) -> int | None:
    """Queries of a chunk, about equal parts of all; None: scores are computed whole."""
    if jax.sharding.get_abstract_mesh().shape.get("sequence", 1) > 1:
        return None
    if queries * keys < SCORES:
        return None
    chunk = CPU_CHUNK if on_one_cpu() else CHUNK
    return -(-queries // max(1, (queries + chunk // 2) // chunk))
