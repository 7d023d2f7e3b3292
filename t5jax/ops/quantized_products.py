"""Products with quantized kernels, which are not expanded in memory for few rows.

On a CPU the input is rounded to int8 too, for an int8 product: XLA would write the kernel to memory
as floats, which takes 26.8 ms for a row of T5-small's head, against 1.04 ms. A CPU without
instructions for such products multiplies many rows sooner as floats: on an AMD EPYC of 2 cores
T5-small encoded 8 x 256 tokens in 0.88 s in int8, and in 0.75 s in float32. On an accelerator XLA
fuses the conversion of the integers to the input's dtype into the product.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from t5jax.ops.backend import multiplies_integers
from t5jax.ops.quantized import LARGEST, Quantized

# Most rows that a CPU without instructions for them multiplies as integers.
MOST_ROWS = 256


def multiply(x: jax.Array, w: Quantized, dtype: Any) -> jax.Array:
    """x [R, *C] with w [*O, *C] -> [R, *O]."""
    integers = jax.default_backend() == "cpu" and (len(x) <= MOST_ROWS or multiplies_integers())
    one = multiply_integers if integers else multiply_floats
    y = one(x, w.as_rows()) * w.scale.reshape(-1)
    return y.astype(dtype).reshape(len(x), *w.outputs)


def multiply_floats(x: jax.Array, w: Quantized) -> jax.Array:
    """x [R, *C] with the integers of w [O, *C] as floats -> float32[R, O]."""
    parts = w.parts()
    y = jnp.float32(0)
    for part, of_x in zip(parts, jnp.split(x, len(parts), axis=-1), strict=True):
        kernel, flat = part.reshape(len(part), -1).astype(x.dtype), of_x.reshape(len(x), -1)
        y += jnp.einsum("RC,OC->RO", flat, kernel, preferred_element_type=jnp.float32)
    return y


def multiply_integers(x: jax.Array, w: Quantized) -> jax.Array:
    """x [R, *C] with the integers of w [O, *C] -> float32[R, O], as int8.

    Each row of x has a scale. A single row gets a second row with its rounding error: two rows are
    as fast as one, and almost nothing is lost.
    """
    rows = len(x)
    x = x.astype(jnp.float32)
    axes = tuple(range(1, x.ndim))
    unit = jnp.maximum(jnp.max(jnp.abs(x), axis=axes, keepdims=True), 1e-30) / LARGEST
    digits = jnp.round(x / unit)
    units = unit.reshape(rows, 1)
    if rows == 1:
        rest = jnp.round((x - digits * unit) * (2 * LARGEST) / unit)
        digits = jnp.concatenate([digits, rest])
        units = jnp.concatenate([units, units / (2 * LARGEST)])
    y = w.products(digits.astype(jnp.int8)).astype(jnp.float32) * units
    return jnp.sum(y, axis=0, keepdims=True) if rows == 1 else y
