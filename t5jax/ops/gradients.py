"""Operations with gradients that are faster on a CPU than JAX's, for training.

`project`'s gradient of the kernel transposes the input, not the output's gradient. In T5 that one
is wider and fused with the activation's derivative, and its transposition would be the slowest loop
of a step. `add_bias` sums the bias's gradient over the batch by a matrix product, in a tenth of the
time of a reduction over the first axis.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(x: jax.Array, w: jax.Array, contracted: int = 1) -> jax.Array:
    """x [..., *C] with w [*C, *O] over their `contracted` common dimensions -> [..., *O]."""
    return jnp.tensordot(x, w, contracted)


def _project_forward(x: jax.Array, w: jax.Array, contracted: int) -> Any:
    return jnp.tensordot(x, w, contracted), (x, w)


def _project_backward(contracted: int, saved: Any, ct: jax.Array) -> Any:
    x, w = saved
    rows = x.ndim - contracted
    dx = jnp.tensordot(ct, w, (tuple(range(rows, ct.ndim)), tuple(range(contracted, w.ndim))))
    inputs, outputs = math.prod(w.shape[:contracted]), math.prod(w.shape[contracted:])
    if inputs > outputs:
        # Of two dimensions each, XLA multiplies them as they are, and transposes neither.
        dw = x.reshape(-1, inputs).T @ ct.reshape(-1, outputs)
        return dx, dw.reshape(w.shape)
    axes = tuple(range(rows))
    return dx, jnp.tensordot(x, ct, (axes, axes))


project.defvjp(_project_forward, _project_backward)


@jax.custom_vjp
def add_bias(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """[B, N, T, S] plus [N, T, S]."""
    return logits + bias


def _add_bias_forward(logits: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return logits + bias, None


def _add_bias_backward(_: None, ct: jax.Array) -> tuple[jax.Array, jax.Array]:
    return ct, jnp.tensordot(jnp.ones(ct.shape[0], ct.dtype), ct, 1)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
