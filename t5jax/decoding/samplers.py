"""Samplers choose the next id of every row from logits."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.ops.selection import likeliest


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The id with the largest logit."""

    def __call__(self, logits: jax.Array, keys: jax.Array) -> jax.Array:
        """float32[R, V] -> int32[R]; `keys` are not used."""
        del keys
        return likeliest(logits)


jax.tree_util.register_static(Greedy)


@flax.struct.dataclass
class Sample:
    """A draw from the restricted distribution.

    Numbers are leaves, so changing them does not recompile; None leaves a restriction out. `top_k`
    and `keep` are sizes.
    """

    temperature: float | jax.Array = 1.0
    top_k: int = flax.struct.field(pytree_node=False, default=0)  # 0: all
    top_p: float | jax.Array | None = None
    min_p: float | jax.Array | None = None
    typical_p: float | jax.Array | None = None
    epsilon_cutoff: float | jax.Array | None = None
    eta_cutoff: float | jax.Array | None = None
    keep: int = flax.struct.field(pytree_node=False, default=1)  # fewest ids that stay

    def restrict(self, logits: jax.Array) -> jax.Array:
        """float32[R, V]: temperature, then each restriction in transformers' order."""
        logits = top_k(logits / self.temperature, self.top_k)
        if self.top_p is not None:
            logits = top_p(logits, self.top_p, self.keep)
        if self.min_p is not None:
            logits = min_p(logits, self.min_p, self.keep)
        if self.typical_p is not None:
            logits = typical_p(logits, self.typical_p, self.keep)
        if self.epsilon_cutoff is not None:
            logits = epsilon_cutoff(logits, self.epsilon_cutoff, self.keep)
        if self.eta_cutoff is not None:
            logits = eta_cutoff(logits, self.eta_cutoff, self.keep)
        return logits

    def __call__(self, logits: jax.Array, keys: jax.Array) -> jax.Array:
        """float32[R, V] logits and one key a row [R] -> int32[R]."""
        logits = self.restrict(logits)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:]))(keys)
        # argmax of logits + Gumbel noise is a draw from their softmax.
        return likeliest(logits + noise)


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps each row's k largest logits and ties with the k-th; k=0: all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    return jnp.where(logits < kth_largest(logits, k), -jnp.inf, logits)


def top_p(logits: jax.Array, p: float | jax.Array, keep: int = 1) -> jax.Array:
    """Keeps the smallest set of likeliest ids whose probabilities sum to at least `p`.

    Nucleus sampling (arXiv:1904.09751, section 3.1). At least `keep` ids stay.
    """
    if isinstance(p, float) and p >= 1.0:
        return logits
    ascending = jnp.sort(logits, axis=-1)
    # An id goes if it and all less likely ids hold at most 1 - p. Summed from the smallest, because
    # float32 sums near 1 are coarse.
    stays = jnp.cumsum(jax.nn.softmax(ascending), axis=-1) > 1.0 - p
    stays |= jnp.arange(logits.shape[-1]) >= logits.shape[-1] - keep
    threshold = jnp.min(jnp.where(stays, ascending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < threshold, -jnp.inf, logits)


def min_p(logits: jax.Array, p: float | jax.Array, keep: int = 1) -> jax.Array:
    """Keeps ids at least `p` times as likely as the likeliest (arXiv:2407.01082)."""
    largest = jnp.max(logits, axis=-1, keepdims=True)
    out = logits < jnp.minimum(largest + jnp.log(p), kth_largest(logits, keep))
    return jnp.where(out, -jnp.inf, logits)


def typical_p(logits: jax.Array, mass: float | jax.Array, keep: int = 1) -> jax.Array:
    """Keeps ids whose information is nearest to the entropy, until they hold `mass`.

    Locally typical sampling (arXiv:2202.00666, section 3).
    """
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    distance = jnp.abs(-log_p - entropy(log_p))
    nearest = jnp.argsort(distance, axis=-1)
    reached = jnp.cumsum(jnp.take_along_axis(p, nearest, -1), axis=-1)
    last = jnp.minimum(jnp.sum(reached < mass, axis=-1, keepdims=True), logits.shape[-1] - 1)
    last = jnp.maximum(last, keep - 1)
    threshold = jnp.take_along_axis(distance, jnp.take_along_axis(nearest, last, -1), -1)
    return jnp.where(distance > threshold, -jnp.inf, logits)


def epsilon_cutoff(logits: jax.Array, epsilon: float | jax.Array, keep: int = 1) -> jax.Array:
    """Keeps ids of at least this probability (arXiv:2210.15191, section 3.2)."""
    out = (jax.nn.softmax(logits) < epsilon) & (logits < kth_largest(logits, keep))
    return jnp.where(out, -jnp.inf, logits)


def eta_cutoff(logits: jax.Array, epsilon: float | jax.Array, keep: int = 1) -> jax.Array:
    """Keeps ids of at least the probability min(epsilon, sqrt(epsilon) exp(-entropy)).

    Eta sampling (arXiv:2210.15191, section 3.3).
    """
    eta = jnp.minimum(epsilon, jnp.sqrt(epsilon) * jnp.exp(-entropy(jax.nn.log_softmax(logits))))
    return epsilon_cutoff(logits, eta, keep)


def entropy(log_p: jax.Array) -> jax.Array:
    """Log-probabilities float32[R, V] -> entropy in nats, float32[R, 1]."""
    p = jnp.exp(log_p)
    return -jnp.sum(jnp.where(p > 0, p * log_p, 0.0), axis=-1, keepdims=True)


def kth_largest(logits: jax.Array, k: int) -> jax.Array:
    """float32[R, V] -> float32[R, 1], each row's k-th largest value."""
    if k == 1:
        return jnp.max(logits, axis=-1, keepdims=True)
    return jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][:, -1:]
