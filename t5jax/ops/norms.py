"""Norms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float, dtype: Any) -> jax.Array:
    """[..., D] -> [..., D] in `dtype`; statistics in float32 (arXiv:1910.07467)."""
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
    return (x * scale).astype(dtype)


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: Any
) -> jax.Array:
    """[..., D] -> [..., D] in `dtype`; statistics in float32 (arXiv:1607.06450)."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
    return (x * scale + bias).astype(dtype)
