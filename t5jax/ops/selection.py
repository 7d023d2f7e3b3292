"""argmax and top-k, fast on a CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Columns of a block, whose maximum is compared first. It divides every padded vocabulary.
BLOCK = 128


def likeliest(logits: jax.Array) -> jax.Array:
    """argmax of each row, the first of equals: float32[R, V] -> int32[R].

    XLA's argmax on a CPU takes seven times as long, with 16 rows of T5's vocabulary, as finding the
    best block first.
    """
    if jax.default_backend() != "cpu" or logits.shape[1] % BLOCK:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    blocks = logits.reshape(len(logits), -1, BLOCK)
    block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    at = jnp.argmax(take(blocks, block[:, None])[:, 0], axis=-1)
    return (block * BLOCK + at).astype(jnp.int32)


def largest(x: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` largest of float32[B, W] in descending order, and their indices.

    The `count` blocks with the largest maxima hold all of them. Sorting only these blocks is five
    times as fast on a CPU.
    """
    batch, width = x.shape
    if width % BLOCK or width // BLOCK <= 2 * count:
        return jax.lax.top_k(x, count)
    blocks = x.reshape(batch, -1, BLOCK)
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=-1), count)
    # In ascending order, so that the first of equals is taken, as by one sort of all.
    chosen = jnp.sort(chosen, axis=-1)
    values, at = jax.lax.top_k(take(blocks, chosen).reshape(batch, -1), count)
    return values, take(chosen, at // BLOCK) * BLOCK + at % BLOCK


def take(x: jax.Array, at: jax.Array) -> jax.Array:
    """x [B, N, …] at int32[B, M] -> [B, M, …]."""
    return x[jnp.arange(len(x))[:, None], at]
