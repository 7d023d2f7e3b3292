"""Adafactor as T5 uses it: factored by the meaning of the axes, every layer for itself.

Shazeer & Stern 2018 (arXiv:1804.04235) define Adafactor for matrices and vectors (algorithms 4 and
5). Here a parameter is an array of named axes, and it is the names that make a matrix of it:

- `layers` is a batch: each of its slices is a parameter of its own.
- `embed` is the rows; `heads`, `kv`, `mlp` and `vocab` are the columns, several of them joined. So
  a query kernel (layers, embed, heads, kv) is, in each layer, a matrix of embed x (heads * kv).
- A parameter without rows, without columns or with any other axis is not factored. Among T5's
  these are the norms' scales and the tables of relative biases.

The logical axes of a parameter are a `PartitionSpec` of their names, one for each dimension. (A
plain tuple would be taken for a subtree.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

BATCH = "layers"
ROWS = "embed"
COLUMNS = frozenset({"heads", "kv", "mlp", "vocab"})


class AdafactorState(NamedTuple):
    """Second moments in float32, each a tree shaped like the parameters.

    A factored parameter has `v_row`, its shape without the columns, and `v_col`, its shape without
    the rows; any other has `v`, of its own shape. What a parameter does not have is a scalar 0.
    """

    count: jax.Array  # int32[], updates so far
    v_row: Any
    v_col: Any
    v: Any


def scale_by_adafactor(
    axes: Any,
    *,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    clip_threshold: float = 1.0,
    min_factored: int = 128,
    scale_by_parameter: bool = True,
    epsilon1: float = 1e-30,
    epsilon2: float = 1e-3,
) -> optax.GradientTransformation:
    """Adafactor's update, without momentum and without the learning rate and its sign.

    For each parameter, or each layer of it, with the gradient G at step t = 1, 2, ... (algorithms
    4 to 6 of arXiv:1804.04235; factoring is its section 3, clipping 6, the decay 7, scaling 8):

      beta = 1 - t^-decay_rate, so 0 at first: no bias correction is needed
      R = beta R + (1 - beta) mean over columns of (G^2 + epsilon1), C likewise over rows
      V = R C / mean(R)
      U = G / sqrt(V)
      update = U / max(1, RMS(U) / clip_threshold) * max(epsilon2, RMS(parameter))

    Args:
      axes: tree like the parameters with a `PartitionSpec` of axis names for each.
      decay_rate: exponent of the second moment's decay.
      step_offset: subtracted from t; up to there the second moment is only the last gradient's.
      clip_threshold: largest RMS of U.
      min_factored: a parameter is factored if it has this many rows and columns.
      scale_by_parameter: whether to multiply by the parameter's RMS; the update then is relative.
      epsilon1: added to squared gradients.
      epsilon2: least scale of a parameter, so that one that starts at 0 moves.

    Returns:
      A transformation from gradients of any float dtype to float32 updates; its state is an
      `AdafactorState`.

    Raises:
      ValueError: at `init` and `update`, if a parameter has not one axis name a dimension; at
        `update`, if it is to scale by parameters and gets none.
    """

    def init(params: Any) -> AdafactorState:
        shapes = _moment_shapes(axes, params, min_factored)
        v_row, v_col, v = (jax.tree.map(_zeros, tree, is_leaf=_is_shape) for tree in shapes)
        return AdafactorState(jnp.zeros((), jnp.int32), v_row, v_col, v)

    def update(grads: Any, state: AdafactorState, params: Any = None) -> tuple[Any, AdafactorState]:
        if params is None and scale_by_parameter:
            raise ValueError("scale_by_parameter needs the parameters: update(grads, state, params)")
        t = jnp.maximum(state.count + 1 - step_offset, 1)
        beta = 1.0 - t.astype(jnp.float32) ** -decay_rate
        ...
    return optax.GradientTransformation(init, update)
