"""The exact argmax of the logits without reading the whole head.

A greedy step with few rows is bound by reading weights, of which the head is nearly half with T5's
vocabulary. An int8 copy has a quarter of the bytes. Its product with the decoder's output gives
every logit up to a known error: by Cauchy and Schwarz, |h . (w - w')| <= |h| |w - w'|. Only rows of
ids that may have the largest logit are read from the real head; if they may be too many, all are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.ops.int8 import int8_products

# Ids are grouped into blocks, so that few numbers are sorted and the head is read in runs. The
# BLOCKS likeliest blocks are read from the real head.
BLOCK = 64
BLOCKS = 8
# Rounding of float32 sums in the bounds, relative to the product of norms.
SLACK = 1e-5
DIGITS = 127  # digits are from -DIGITS to DIGITS


@flax.struct.dataclass
class Shortlist:
    """A head float32[V, D] with its int8 copy.

    Row v is approximately `digits[v] * scale[v]`; the logit of that is wrong by at most `error[v]`
    times the norm of the decoder's output.
    """

    kernel: Any
    digits: Any
    scale: Any
    error: Any

    def best(self, hidden: jax.Array, restrict: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The id of the largest logit of each row: float32[R, D] -> int32[R].

        `restrict` may set logits float32[R, V] to minus infinity.
        """
        upper = restrict(self.upper(hidden))
        rows, vocab = upper.shape
        tops = jnp.max(upper[:, : vocab - vocab % BLOCK].reshape(rows, -1, BLOCK), axis=-1)
        tops = jax.lax.optimization_barrier(tops)
        bounds, blocks = jax.lax.top_k(tops, BLOCKS + 1)
        # In the order of ids, so that the first of equal logits wins.
        blocks = jnp.sort(blocks[:, :BLOCKS], axis=-1)
        ids = (blocks[:, :, None] * BLOCK + jnp.arange(BLOCK)).reshape(rows, -1)
        rest = jnp.arange(vocab - vocab % BLOCK, vocab)
        ids = jnp.concatenate([ids, jnp.broadcast_to(rest, (rows, len(rest)))], axis=1)
        logits = jnp.einsum("RKD,RD->RK", self.kernel[ids], hidden)
        allowed = jnp.take_along_axis(upper, ids, axis=1) > -jnp.inf
        logits = jnp.where(allowed, logits, -jnp.inf)
        place = jnp.argmax(logits, axis=-1)[:, None]
        largest = jnp.take_along_axis(logits, place, axis=1)[:, 0]
        found = jnp.take_along_axis(ids, place, axis=1)[:, 0].astype(jnp.int32)

        def all_of_them() -> jax.Array:
            exact = jnp.einsum("RD,VD->RV", hidden, self.kernel)
            return jnp.argmax(restrict(exact), axis=-1).astype(jnp.int32)

        certain = jnp.all(largest > bounds[:, BLOCKS])
        return jax.lax.cond(certain, lambda: found, all_of_them)

    def upper(self, hidden: jax.Array) -> jax.Array:
        """Upper bounds of the logits: float32[R, D] -> float32[R, V]."""
        rows = len(hidden)
        # Two int8 digits a number, which lose next to nothing: a product with two rows is as fast
        # as with one.
        first = jnp.maximum(jnp.max(jnp.abs(hidden), axis=1, keepdims=True), 1e-30) / DIGITS
        high = jnp.round(hidden / first)
        second = first / (2 * DIGITS)
        low = jnp.round((hidden - first * high) / second)
        digits = jnp.concatenate([high, low]).astype(jnp.int8)
        products = int8_products(digits, self.digits).astype(jnp.float32)
        near = products[:rows] * first + products[rows:] * second
        norm = jnp.linalg.norm(hidden, axis=1, keepdims=True)
        return near * self.scale + norm * self.error


@jax.jit
def make_shortlist(kernel: jax.Array) -> Shortlist:
    """The `Shortlist` of a head float32[V, D]."""
    scale = jnp.maximum(jnp.max(jnp.abs(kernel), axis=1), 1e-30) / DIGITS
    digits = jnp.round(kernel / scale[:, None])
    copy = digits * scale[:, None]
    # `upper` rounds each of D entries to half of the second unit; the first unit is at most the
    # output's norm over DIGITS.
    lost = 0.5 * kernel.shape[1] ** 0.5 / (2 * DIGITS**2)
    error = jnp.linalg.norm(kernel - copy, axis=1)
    error = error + (lost + SLACK) * jnp.linalg.norm(copy, axis=1)
    return Shortlist(kernel, digits.astype(jnp.int8), scale, error)
