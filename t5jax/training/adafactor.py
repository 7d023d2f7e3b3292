"""T5's Adafactor, factored by logical axes, each layer on its own.

Shazeer & Stern 2018 (arXiv:1804.04235) define Adafactor for matrices and vectors (algorithms 4 and
5). The names of a parameter's axes say which matrix it is:

- `layers` is a batch: each slice is a parameter of its own.
- `embed` is the rows; `heads`, `kv`, `mlp` and `vocab` together are the columns. A query kernel
  (layers, embed, heads, kv) is, in each layer, a matrix embed x (heads * kv).
- A parameter without rows, without columns or with any other axis is not factored: T5's norm scales
  and tables of relative biases.

Logical axes are a `PartitionSpec` with one name a dimension; JAX takes a tuple for a subtree.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

BATCH = "layers"
ROWS = "embed"
COLUMNS = frozenset({"heads", "kv", "mlp", "vocab"})

Dims = tuple[int, ...]


@flax.struct.dataclass
class AdafactorState:
    """Second moments in float32, each a tree shaped like the parameters.

    A factored parameter has `v_row` (its shape without the columns) and `v_col` (its shape without
    the rows); any other has `v` (its shape). The moments that it does not have are scalar zeros.
    """

    count: Any  # int32[], updates so far
    v_row: Any
    v_col: Any
    v: Any


def scale_by_adafactor(
    axes: Any,
    *,
    decay_rate: float = 0.8,
    clip_threshold: float = 1.0,
    min_factored: int = 128,
    scale_by_parameter: bool = True,
    epsilon1: float = 1e-30,
    epsilon2: float = 1e-3,
) -> optax.GradientTransformation:
    """Adafactor's update, before the learning rate and its sign. No momentum.

    For each parameter, or each layer of it, with gradient G at step t = 1, 2, ... (algorithms 4 to
    6 of arXiv:1804.04235; section 3 is factoring, 6 clipping, 7 the decay, 8 scaling):

      beta = 1 - t^-decay_rate, so 0 at first: no bias correction is needed
      R = beta R + (1 - beta) mean over columns of (G^2 + epsilon1), C likewise over rows
      V = R C / mean(R)
      U = G / sqrt(V)
      update = U / max(1, RMS(U) / clip_threshold) * max(epsilon2, RMS(parameter))

    Args:
      axes: a tree like the parameters, of `PartitionSpec`s of axis names.
      decay_rate: exponent of the second moment's decay.
      clip_threshold: largest RMS of U.
      min_factored: fewest rows and columns of a factored parameter.
      scale_by_parameter: multiply by the parameter's RMS, which makes updates relative.
      epsilon1: added to squared gradients.
      epsilon2: least scale, so that a parameter that starts at 0 moves.

    Returns:
      A transformation from gradients of any float dtype to float32 updates; its state is an
      `AdafactorState`.

    Raises:
      ValueError: `init` and `update`: a parameter without one axis name per dimension; `update`:
        `scale_by_parameter` without parameters.
    """

    def init(params: Any) -> AdafactorState:
        def zeros(moment: int) -> Any:
            def leaf(param: jax.Array, names: PartitionSpec) -> jax.Array:
                kept = _kept_dims(names, param.shape, min_factored)[moment]
                return jnp.zeros([param.shape[dim] for dim in kept], jnp.float32)

            return jax.tree.map(leaf, params, axes)

        return AdafactorState(jnp.zeros((), jnp.int32), zeros(0), zeros(1), zeros(2))

    def update(grads: Any, state: AdafactorState, params: Any = None) -> tuple[Any, AdafactorState]:
        if scale_by_parameter and params is None:
            raise ValueError(
                "scale_by_parameter needs the parameters: update(grads, state, params)"
            )
        t = (state.count + 1).astype(jnp.float32)
        beta = 1.0 - t**-decay_rate

        def leaf(grad, names, param, v_row, v_col, v):
            sides = _sides(names, grad.shape, min_factored)
            grad = grad.astype(jnp.float32)
            square = jnp.square(grad) + epsilon1
            if sides is None:
                v = beta * v + (1 - beta) * square
                step = grad * jax.lax.rsqrt(v)
            else:
                rows, columns = sides
                v_row = beta * v_row + (1 - beta) * jnp.mean(square, axis=columns)
                v_col = beta * v_col + (1 - beta) * jnp.mean(square, axis=rows)
                row = jnp.expand_dims(v_row, columns)
                row = row / jnp.mean(row, axis=rows, keepdims=True)
                # The root of the product would leave float32's range.
                step = grad * jax.lax.rsqrt(row) * jax.lax.rsqrt(jnp.expand_dims(v_col, rows))
            within_layer = tuple(dim for dim, name in enumerate(names) if name != BATCH)
            step = step / jnp.maximum(1.0, _rms(step, within_layer) / clip_threshold)
            if scale_by_parameter:
                step = step * jnp.maximum(epsilon2, _rms(param, within_layer))
            return step, v_row, v_col, v

        params = grads if params is None else params
        leaves = jax.tree.map(leaf, grads, axes, params, state.v_row, state.v_col, state.v)
        updates, v_row, v_col, v = jax.tree.transpose(
            jax.tree.structure(grads), jax.tree.structure((0, 0, 0, 0)), leaves
        )
        count = optax.safe_increment(state.count)
        return updates, AdafactorState(count, v_row, v_col, v)

    return optax.GradientTransformation(init, update)


def adafactor_state_axes(
    axes: Any, params_shapes: Any, *, min_factored: int = 128
) -> AdafactorState:
    """The logical axes of `scale_by_adafactor`'s state: a `PartitionSpec` in place of each array.

    `params_shapes` is a tree of anything with the parameters' `shape`; `axes`, `min_factored` and
    errors as for `scale_by_adafactor`.
    """

    def kept_axes(moment: int) -> Any:
        def leaf(param: Any, names: PartitionSpec) -> PartitionSpec:
            kept = _kept_dims(names, param.shape, min_factored)[moment]
            return PartitionSpec(*(names[dim] for dim in kept))

        return jax.tree.map(leaf, params_shapes, axes)

    return AdafactorState(PartitionSpec(), kept_axes(0), kept_axes(1), kept_axes(2))


def _sides(names: PartitionSpec, shape: Dims, min_factored: int) -> tuple[Dims, Dims] | None:
    """The dimensions that are rows, and that are columns; None for an unfactored parameter."""
    if len(names) != len(shape):
        raise ValueError(f"axes {names} do not name the {len(shape)} dimensions of shape {shape}")
    rows = tuple(dim for dim, name in enumerate(names) if name == ROWS)
    columns = tuple(dim for dim, name in enumerate(names) if name in COLUMNS)
    batch = sum(name == BATCH for name in names)
    is_matrix = rows and columns and len(rows) + len(columns) + batch == len(shape)
    sizes = (math.prod(shape[dim] for dim in side) for side in (rows, columns))
    return (rows, columns) if is_matrix and min(sizes) >= min_factored else None


def _kept_dims(names: PartitionSpec, shape: Dims, min_factored: int) -> tuple[Dims, Dims, Dims]:
    """The parameter's dimensions in its v_row, v_col and v; () for a scalar 0."""
    every = tuple(range(len(shape)))
    sides = _sides(names, shape, min_factored)
    if sides is None:
        return (), (), every
    rows, columns = sides
    v_row = tuple(dim for dim in every if dim not in columns)
    v_col = tuple(dim for dim in every if dim not in rows)
    return v_row, v_col, ()


def _rms(x: jax.Array, dims: Dims) -> jax.Array:
    """Root mean square over `dims`, which stay as size 1."""
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), axis=dims, keepdims=True))
