"""The likeliest id, found exactly, without reading the whole head.

A step of greedy decoding with few rows costs what its weights weigh, and with T5's vocabulary the
head is nearly half of them. Here it is kept a second time in int8, a quarter of the bytes. Their
product with the decoder's output gives every logit up to an error that is known: by
Cauchy and Schwarz, |h . (w - w')| <= |h| |w - w'|. Only ids whose logit may be the largest are
looked up in the real head; where they may be too many, the real head decides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.ops.int8 import int8_products

# Ids go in blocks, so that few numbers are sorted and rows of the head are read in runs. The
# likeliest BLOCKS blocks are looked up.
BLOCK = 64
BLOCKS = 8
# Room for the rounding of float32 sums in the bounds, relative to the product of norms.
SLACK = 1e-5
DIGITS = 127  # int8 goes from -DIGITS to DIGITS here


@flax.struct.dataclass
class Shortlist:
    """A head float32[V, D] with its int8 copy.

    Row v of the head is near `digits[v] * scale[v]`, and a logit computed with that is wrong by
    at most `error[v]` times the norm of the decoder's output.
    """

    kernel: Any
    digits: Any
    scale: Any
    error: Any

    def best(self, hidden: jax.Array, restrict: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The id of the largest logit of each row: float32[R, D] -> int32[R].

        `restrict` takes logits float32[R, V] and may put minus infinity into them.
        """
        upper = restrict(self.upper(hidden))
        rows, vocab = upper.shape
        tops = jnp.max(upper[:, : vocab - vocab % BLOCK].reshape(rows, -1, BLOCK), axis=-1)
        tops = jax.lax.optimization_barrier(tops)
        bounds, blocks = jax.lax.top_k(tops, BLOCKS + 1)
        # In the order of ids: of equal logits the first one wins, as everywhere.
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
        """What no logit exceeds: float32[R, D] -> float32[R, V]."""
        rows = len(hidden)
        # Two digits, the second of what the first leaves. A product with one row would not be
        # faster, and so the output of one row loses next to nothing.
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
    """Of a head float32[V, D]."""
    scale = jnp.maximum(jnp.max(jnp.abs(kernel), axis=1), 1e-30) / DIGITS
    digits = jnp.round(kernel / scale[:, None])
    copy = digits * scale[:, None]
    # The output's digits lose half of the second unit in each of D entries, and the first unit is
    # at most the output's norm over DIGITS.
    lost = 0.5 * kernel.shape[1] ** 0.5 / (2 * DIGITS**2)
    error = jnp.linalg.norm(kernel - copy, axis=1)
    error = error + (lost + SLACK) * jnp.linalg.norm(copy, axis=1)
    return Shortlist(kernel, digits.astype(jnp.int8), scale, error)
