"""Attention in chunks of queries, whose scores stay in the cache of a CPU.

Whole scores [B, N, T, S] go to memory and back several times. Milliseconds on 2 cores with 8 heads
of 64, forward / forward and gradient, whole and in chunks of 128 queries of one row:

| rows x tokens | whole | chunks |
|---|---|---|
| 8 x 256 | 54 / 136 | 19 / 67 |
| 4 x 512 | 38 / 128 | 28 / 107 |
| 2 x 1024 | 70 / 270 | 41 / 174 |
| 1 x 2048 | 182 / 741 | 78 / 311 |

Memory grows with T + S: the gradient computes a chunk's weights again from the logarithm of their
sum (Dao et al. 2022, arXiv:2205.14135, section 3.1). Leaving out keys that no query of a chunk sees
(padding, other segments, the future) by a conditional in the loop costs a quarter more where there
are none.

A bias that depends on key minus query alone is the same for every chunk, but for its place. So it
is a band: float32[N, C, T + S], of C queries and the positions -T to S - 1.

Letters: B batch, T query, S key/value, N heads, H head_dim; C queries of a chunk, G rows at once.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from t5jax.ops.masks import MASKED, SegmentMask

_slice = jax.lax.dynamic_slice_in_dim


def attend_in_chunks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: SegmentMask,
    *,
    chunk: int,
    together: int,
) -> jax.Array:
    """q [B, T, N, H], k and v [B, S, N, H] -> [B, T, N, H]; softmax in float32.

    Args:
      bias: float32[N, C, T + S] as above, added to the logits; or None.
      mask: the keys that each query sees. A query that sees none gives the mean of all values.
      chunk: C, queries of a chunk.
      together: rows computed at once, a divisor of B.
    """
    return _attend(q, k, v, bias, mask, chunk, together)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q: Any, k: Any, v: Any, bias: Any, mask: Any, chunk: int, together: int) -> jax.Array:
    return _forward(q, k, v, bias, mask, chunk, together)[0]


def _forward(
    q: Any, k: Any, v: Any, bias: Any, mask: SegmentMask, chunk: int, together: int
) -> tuple[jax.Array, Any]:
    given = q, k, v, bias, mask
    q, k, v, bias, mask = _bound(*given)
    length = q.shape[1]

    def group(_: None, rows: Any) -> tuple[None, Any]:
        queries, keys, values, segments, key_segments = rows

        def one(_: None, first: jax.Array) -> tuple[None, Any]:
            first, own = _bound(first, _slice(queries, first, chunk, axis=2))
            seen = _seen(segments, key_segments, first, chunk, mask.causal)
            band = None if bias is None else _band(bias, first, length)
            logits = _logits(own, keys, band, seen)
            top = jnp.max(logits, axis=-1, keepdims=True)
            weights = jnp.exp(logits - top)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            y = _product("GNCS,GNSH->GNCH", weights.astype(v.dtype), values)
            return None, ((y / total).astype(v.dtype), (top + jnp.log(total))[..., 0])

        _, (y, norm) = jax.lax.scan(one, None, _firsts(queries, chunk))
        return None, (_joined(y), _joined(norm))

    rows = (
        _grouped(_padded(_by_head(q), chunk), together),
        _grouped(jax.lax.optimization_barrier(k.transpose(0, 2, 3, 1)), together),
        _grouped(_by_head(v), together),
        _grouped(_padded(mask.queries, chunk, axis=1), together),
        _grouped(mask.keys, together),
    )
    _, (y, norm) = jax.lax.scan(group, None, rows)
    out = y.reshape(-1, *y.shape[2:])[:, :, :length].swapaxes(1, 2)
    return out, (*given, y, norm)


def _backward(chunk: int, together: int, saved: Any, ct: jax.Array) -> Any:
    q, k, v, bias, mask, y, norm, ct = _bound(*saved, ct)
    length = q.shape[1]

    def group(bias_ct: Any, rows: Any) -> tuple[Any, Any]:
        queries, keys, values, segments, key_segments, y, norm, ct = rows
        inner = jnp.sum(y.astype(jnp.float32) * ct.astype(jnp.float32), axis=-1)

        def one(carry: Any, first: jax.Array) -> tuple[Any, Any]:
            keys_ct, values_ct, bias_ct = carry
            own, own_ct, own_norm, own_inner = (
                _slice(x, first, chunk, axis=2) for x in (queries, ct, norm, inner)
            )
            seen = _seen(segments, key_segments, first, chunk, mask.causal)
            band = None if bias is None else _band(bias, first, length)
            logits = _logits(own, keys.swapaxes(2, 3), band, seen)
            weights = jnp.exp(logits - own_norm[..., None])
            weights_ct = _product("GNCH,GNSH->GNCS", own_ct, values)
            logits_ct = weights * (weights_ct - own_inner[..., None])
            if bias_ct is not None:
                band = jnp.sum(logits_ct, axis=0) + _band(bias_ct, first, length)
                bias_ct = jax.lax.dynamic_update_slice_in_dim(bias_ct, band, length - first, axis=2)
            logits_ct = logits_ct.astype(q.dtype)
            # Of the operands, the scores are not transposed.
            own, own_ct = _bound(own.swapaxes(2, 3), own_ct.swapaxes(2, 3))
            values_ct += _product("GNHC,GNCS->GNHS", own_ct, weights.astype(v.dtype))
            keys_ct += _product("GNHC,GNCS->GNHS", own, logits_ct)
            queries_ct = _product("GNCS,GNSH->GNCH", logits_ct, keys)
            return (keys_ct, values_ct, bias_ct), queries_ct.astype(q.dtype)

        zeros = jnp.zeros(keys.swapaxes(2, 3).shape, jnp.float32)
        (keys_ct, values_ct, bias_ct), queries_ct = jax.lax.scan(
            one, (zeros, zeros, bias_ct), _firsts(queries, chunk)
        )
        keys_ct, values_ct = (x.swapaxes(2, 3).astype(k.dtype) for x in (keys_ct, values_ct))
        return bias_ct, (_joined(queries_ct), keys_ct, values_ct)

    rows = (
        _grouped(_padded(_by_head(q), chunk), together),
        _grouped(_by_head(k), together),
        _grouped(_by_head(v), together),
        _grouped(_padded(mask.queries, chunk, axis=1), together),
        _grouped(mask.keys, together),
        y,
        norm,
        _grouped(_padded(_by_head(ct), chunk), together),
    )
    start = None if bias is None else jnp.zeros_like(bias)
    bias_ct, parts = jax.lax.scan(group, start, rows)
    queries_ct, keys_ct, values_ct = (x.reshape(-1, *x.shape[2:]).swapaxes(1, 2) for x in parts)
    return queries_ct[:, :length], keys_ct, values_ct, bias_ct, None


_attend.defvjp(_forward, _backward)


def _firsts(queries: jax.Array, chunk: int) -> jax.Array:
    """The first position of every chunk of [G, N, T, H]."""
    return jnp.arange(0, queries.shape[2], chunk)


def _band(bias: jax.Array, first: jax.Array, length: int) -> jax.Array:
    """The part of a band [N, C, T + S] for the chunk from `first` -> [N, C, S]."""
    return _slice(bias, length - first, bias.shape[2] - length, axis=2)


def _seen(
    segments: jax.Array, key_segments: jax.Array, first: jax.Array, chunk: int, causal: bool
) -> jax.Array:
    """bool[G, 1, C, S]: the keys that the queries of a chunk see."""
    own, other = _slice(segments, first, chunk, axis=1)[:, :, None], key_segments[:, None]
    seen = (own == other) & (other != 0)
    if causal:
        seen &= jnp.arange(other.shape[-1]) <= first + jnp.arange(chunk)[:, None]
    return seen[:, None]


def _logits(
    queries: jax.Array, keys: jax.Array, band: jax.Array | None, seen: jax.Array
) -> jax.Array:
    """[G, N, C, H], [G, N, H, S] -> float32[G, N, C, S], masked."""
    logits = _product("GNCH,GNHS->GNCS", queries, keys)
    return jnp.where(seen, logits if band is None else logits + band, MASKED)


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum with sums and result in float32."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _bound(*values: Any) -> Any:
    """The values, none of them without the others.

    In the gradient of a scan over layers, and of what is rematerialised, JAX computes apart what
    does not depend on the layer: here the masks or biases of all chunks, stacked.
    """
    return jax.lax.optimization_barrier(values)


def _by_head(x: jax.Array) -> jax.Array:
    """[B, T, N, H] -> [B, N, T, H], before products that would transpose it each time."""
    return jax.lax.optimization_barrier(x.swapaxes(1, 2))


def _padded(x: jax.Array, chunk: int, axis: int = 2) -> jax.Array:
    """Zeros behind the queries, up to whole chunks."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % chunk)
    return jnp.pad(x, widths)


def _grouped(x: jax.Array, together: int) -> jax.Array:
    """[B, ...] -> [B / G, G, ...]."""
    return x.reshape(-1, together, *x.shape[1:])


def _joined(x: jax.Array) -> jax.Array:
    """Chunks [T / C, G, N, C, ...] -> [G, N, T, ...]."""
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])
