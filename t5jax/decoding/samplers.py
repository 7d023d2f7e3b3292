"""Samplers: frozen, hashable strategies that turn logits into the next id of every row."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The likeliest id."""

    def __call__(self, logits: jax.Array, keys: jax.Array) -> jax.Array:
        """float32[R, V] -> int32[R]; `keys` are not used."""
        del keys
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A draw: temperature, then the k likeliest, then nucleus (arXiv:1904.09751, section 3.1)."""

    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0

    def __call__(self, logits: jax.Array, keys: jax.Array) -> jax.Array:
        """float32[R, V] logits and one key a row [R] -> int32[R]."""
        logits = top_p(top_k(logits / self.temperature, self.top_k), self.top_p)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:]))(keys)
        # argmax of logits + Gumbel noise is a draw from their softmax.
        return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Minus infinity below each row's k-th largest logit; ties with it stay. k=0: unchanged."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    threshold = jax.lax.top_k(logits, k)[0][:, -1:]
    return jnp.where(logits < threshold, -jnp.inf, logits)


def top_p(logits: jax.Array, p: float) -> jax.Array:
    """Keeps the smallest set of likeliest ids whose probabilities sum to at least `p`."""
    if p >= 1.0:
        return logits
    descending = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(descending)
    # An id stays if those before it do not reach p yet; so the likeliest always stays.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    threshold = jnp.min(jnp.where(before < p, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < threshold, -jnp.inf, logits)
