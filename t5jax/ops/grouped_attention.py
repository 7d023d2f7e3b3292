"""Attention on a CPU, of a few rows at a time, whose scores stay in its cache.

Each product has its operands in memory as XLA's CPU library wants them, which otherwise leaves the
product to a loop: a barrier behind each transposition, and only queries, keys, values and their
gradients are transposed, never scores. The sum of the weights divides the product, not the weights.
With 8 heads of 64, T5-small encodes 8 x 128 tokens 1.14 times as fast as with the plain formula,
8 x 256 tokens 1.25 times (2 cores).

Letters: B batch, T query, S key/value, N heads, H head_dim; G rows of a group.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from t5jax.ops.masks import MASKED, SegmentMask

_settled = jax.lax.optimization_barrier


def attend_in_groups(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: SegmentMask,
    *,
    group: int,
) -> jax.Array:
    """q [B, T, N, H], k and v [B, S, N, H] -> [B, T, N, H]; softmax in float32.

    Args:
      bias: float32[N, T, S], added to the logits; or None.
      mask: the keys that each query sees. What a query that sees none gives is finite,
        and has no meaning.
      group: G, rows computed at once; the last group may have fewer.
    """
    return _attend(q, k, v, bias, mask, group)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(q: Any, k: Any, v: Any, bias: Any, mask: Any, group: int) -> jax.Array:
    return _forward(q, k, v, bias, mask, group)[0]


def _forward(q: Any, k: Any, v: Any, bias: Any, mask: SegmentMask, group: int) -> Any:
    parts, kept = [], []
    for queries, keys, values, seen in _groups((q, k, v, mask), group):
        queries, keys, values = _by_head(queries), _by_head(keys), _by_head(values)
        logits = _product("GNTH,GNSH->GNTS", queries, keys)
        if bias is not None:
            logits += bias
        logits = jnp.where(seen.dense(), logits, MASKED)
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        total = jnp.sum(weights, axis=-1)[..., None]
        weights = weights.astype(v.dtype)
        y = (_product("GNTS,GNSH->GNTH", weights, values) / total).astype(v.dtype)
        parts.append(_settled(y).swapaxes(1, 2))
        kept.append((queries, keys, values, weights, total, y))
    return jnp.concatenate(parts), (kept, bias is not None)


def _backward(group: int, saved: Any, ct: jax.Array) -> Any:
    kept, biased = saved
    found = []
    bias_ct: Any = None
    for own_ct, (queries, keys, values, weights, total, y) in zip(
        _groups(ct, group), kept, strict=True
    ):
        y_ct = _by_head(own_ct) / total
        inner = jnp.sum(y.astype(jnp.float32) * y_ct, axis=-1)[..., None]
        y_ct = _settled(y_ct.astype(values.dtype))
        weights_ct = _product("GNTH,GNSH->GNTS", y_ct, values)
        logits_ct = weights * (weights_ct - inner)
        if biased:
            summed = jnp.sum(logits_ct, axis=0)
            bias_ct = summed if bias_ct is None else bias_ct + summed
        logits_ct = logits_ct.astype(queries.dtype)
        queries_ct = _product("GNTS,GNSH->GNTH", logits_ct, keys).swapaxes(1, 2)
        keys_ct = _product("GNHT,GNTS->GNHS", _transposed(queries), logits_ct)
        values_ct = _product("GNHT,GNTS->GNHS", _transposed(y_ct), weights)
        found.append((queries_ct, keys_ct.transpose(0, 3, 1, 2), values_ct.transpose(0, 3, 1, 2)))
    whole = (jnp.concatenate(parts).astype(ct.dtype) for parts in zip(*found, strict=True))
    return *whole, bias_ct, None


_attend.defvjp(_forward, _backward)


def _groups(tree: Any, group: int) -> Iterator[Any]:
    """Groups of rows of a tree of arrays."""
    for first in range(0, len(jax.tree.leaves(tree)[0]), group):
        yield jax.tree.map(lambda x: x[first : first + group], tree)  # noqa: B023


def _by_head(x: jax.Array) -> jax.Array:
    """[G, T, N, H] -> [G, N, T, H]."""
    return _settled(x.swapaxes(1, 2))


def _transposed(x: jax.Array) -> jax.Array:
    """[G, N, T, H] -> [G, N, H, T]."""
    return _settled(x.swapaxes(2, 3))


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum with sums and result in float32."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)
