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
sum (Dao et al. 2022, arXiv:2205.14135, section 3.1). Keys that no query of a row's chunks sees,
padding and other segments, are left out where that is a half of them (`t5jax.ops.key_windows`).

A bias that depends on key minus query alone is the same for every chunk, but for its place. So it
is a band: float32[N, C, T + S], of C queries and the positions -T to S - 1.

Letters: B batch, T query, S key/value, N heads, H head_dim; C queries of a chunk, G rows at once,
W keys that a chunk reads.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.ops import key_windows
from t5jax.ops.masks import MASKED, SegmentMask

_slice = jax.lax.dynamic_slice_in_dim
_update = jax.lax.dynamic_update_slice_in_dim


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
      mask: the keys that each query sees. What a query that sees none gives is finite,
        and has no meaning.
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

        def run(width: int, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
            def one(_: None, place: Any) -> tuple[None, Any]:
                place, own = _bound(place, _slice(queries, place.first, chunk, axis=2))
                seen = place.seen(segments, key_segments, mask.causal)
                band = None if bias is None else place.of_band(bias, length)
                logits = _logits(own, place.of_keys(keys, axis=3), band, seen)
                top = jnp.max(logits, axis=-1, keepdims=True)
                weights = jnp.exp(logits - top)
                total = jnp.sum(weights, axis=-1, keepdims=True)
                some = place.of_keys(values, axis=2)
                y = _product("GNCW,GNWH->GNCH", weights.astype(v.dtype), some)
                return None, ((y / total).astype(v.dtype), (top + jnp.log(total))[..., 0])

            places = Place(_firsts(queries, chunk), starts, chunk, width)
            _, (y, norm) = jax.lax.scan(one, None, places)
            return _joined(y), _joined(norm)

        return None, _in_windows(run, segments, key_segments, chunk, mask.causal)

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

        def run(width: int, starts: jax.Array) -> Any:
            def one(carry: Any, place: Any) -> tuple[Any, Any]:
                keys_ct, values_ct, bias_ct = carry
                own, own_ct, own_norm, own_inner = (
                    _slice(x, place.first, chunk, axis=2) for x in (queries, ct, norm, inner)
                )
                some, some_values = (place.of_keys(x, axis=2) for x in (keys, values))
                seen = place.seen(segments, key_segments, mask.causal)
                band = None if bias is None else place.of_band(bias, length)
                logits = _logits(own, some.swapaxes(2, 3), band, seen)
                weights = jnp.exp(logits - own_norm[..., None])
                weights_ct = _product("GNCH,GNWH->GNCW", own_ct, some_values)
                logits_ct = weights * (weights_ct - own_inner[..., None])
                if bias_ct is not None:
                    bias_ct = place.add_to_band(bias_ct, jnp.sum(logits_ct, axis=0), length)
                logits_ct = logits_ct.astype(q.dtype)
                # Of the operands, the scores are not transposed.
                own, own_ct = _bound(own.swapaxes(2, 3), own_ct.swapaxes(2, 3))
                more = _product("GNHC,GNCW->GNHW", own_ct, weights.astype(v.dtype))
                values_ct = place.add_to_keys(values_ct, more)
                more = _product("GNHC,GNCW->GNHW", own, logits_ct)
                keys_ct = place.add_to_keys(keys_ct, more)
                queries_ct = _product("GNCW,GNWH->GNCH", logits_ct, some)
                return (keys_ct, values_ct, bias_ct), queries_ct.astype(q.dtype)

            zeros = jnp.zeros(keys.swapaxes(2, 3).shape, jnp.float32)
            places = Place(_firsts(queries, chunk), starts, chunk, width)
            carry, queries_ct = jax.lax.scan(one, (zeros, zeros, bias_ct), places)
            return carry, _joined(queries_ct)

        carry, queries_ct = _in_windows(run, segments, key_segments, chunk, mask.causal)
        keys_ct, values_ct, bias_ct = carry
        keys_ct, values_ct = (x.swapaxes(2, 3).astype(k.dtype) for x in (keys_ct, values_ct))
        return bias_ct, (queries_ct, keys_ct, values_ct)

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


@flax.struct.dataclass
class Place:
    """A chunk of queries, from `first` on, and the keys that it reads, from `start` on."""

    first: jax.Array
    start: jax.Array
    chunk: int = flax.struct.field(pytree_node=False)
    width: int = flax.struct.field(pytree_node=False)

    def of_keys(self, x: jax.Array, axis: int) -> jax.Array:
        """The part of something of all keys."""
        return x if self.width == x.shape[axis] else _slice(x, self.start, self.width, axis=axis)

    def add_to_keys(self, x: jax.Array, more: jax.Array) -> jax.Array:
        """x [..., S] with `more` [..., W] added to its part."""
        if self.width == x.shape[-1]:
            return x + more
        return _update(x, self.of_keys(x, axis=x.ndim - 1) + more, self.start, axis=x.ndim - 1)

    def of_band(self, bias: jax.Array, length: int) -> jax.Array:
        """The part of a band [N, C, T + S] -> [N, C, W]; `length` is T."""
        return _slice(bias, length - self.first + self.start, self.width, axis=2)

    def add_to_band(self, bias: jax.Array, more: jax.Array, length: int) -> jax.Array:
        """A band [N, C, T + S] with `more` [N, C, W] added to its part."""
        at = length - self.first + self.start
        return _update(bias, self.of_band(bias, length) + more, at, axis=2)

    def seen(self, queries: jax.Array, keys: jax.Array, causal: bool) -> jax.Array:
        """Segments int[G, T], int[G, S] -> bool[G, 1, C, W]: the keys that queries see."""
        own = _slice(queries, self.first, self.chunk, axis=1)[:, :, None]
        other = self.of_keys(keys, axis=1)[:, None]
        seen = (own == other) & (other != 0)
        if causal:
            at = self.start + jnp.arange(self.width)
            seen &= at <= self.first + jnp.arange(self.chunk)[:, None]
        return seen[:, None]


def _in_windows(run: Any, queries: jax.Array, keys: jax.Array, chunk: int, causal: bool) -> Any:
    """`run(W, starts)` for rows of segments int[G, T], int[G, S]."""
    chunks = queries.reshape(len(queries), -1, chunk)
    extents = key_windows.extents(chunks, keys, causal)
    return key_windows.in_windows(run, extents, key_windows.widths(keys.shape[1], chunk))


def _logits(
    queries: jax.Array, keys: jax.Array, band: jax.Array | None, seen: jax.Array
) -> jax.Array:
    """[G, N, C, H], [G, N, H, W] -> float32[G, N, C, W], masked."""
    logits = _product("GNCH,GNHW->GNCW", queries, keys)
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
