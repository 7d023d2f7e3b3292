"""The optimizer a configuration asks for, and the logical axes of its state.

Parameters fall into two groups by their axes. Matrices (the embedding, the head, projections: two
axes or more besides `layers`) decay. Norms' scales and biases (one axis) do not, nor parameters
with an axis that the family names, such as tables of relative biases: pulling them towards 0 would
shrink the activations and flatten the attention rather than regularise. All share one learning
rate.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import optax
from jax.sharding import PartitionSpec

from t5jax.config import OptimizerConfig
from t5jax.training.adafactor import (
    BATCH,
    AdafactorState,
    adafactor_state_axes,
    scale_by_adafactor,
)
from t5jax.training.schedules import make_schedule


def make_optimizer(
    config: OptimizerConfig,
    axes: Any,
    steps: int,
    moments: Any = None,
    no_decay: Collection[str] = (),
) -> optax.GradientTransformation:
    """Gradients to updates: clipped, rescaled, decayed, times minus the learning rate.

    Weight decay is decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101, section 2): a step takes
    `weight_decay` times the learning rate off a matrix, whatever its gradient.

    Args:
      config: the optimizer's section of a run's configuration.
      axes: tree like the parameters with a `PartitionSpec` of axis names for each.
      steps: steps of the run, the end of a decaying learning rate.
      moments: tree like the parameters of booleans: those that have moments. The updates of the
        others are their gradients, which must be zero. Default: all.
      no_decay: axes whose parameters have no weight decay.

    Returns:
      A transformation whose `update` needs the parameters.

    Raises:
      ValueError: if `config.name` is unknown, or from `make_schedule`.
    """
    if moments is not None:
        axes = _masked(axes, moments)
    stages = []
    if config.clip_norm is not None:
        stages.append(optax.clip_by_global_norm(config.clip_norm))
    if config.name == "adafactor":
        adafactor = scale_by_adafactor(
            axes,
            decay_rate=config.decay_rate,
            clip_threshold=config.clip_threshold,
            min_factored=config.min_factored,
            scale_by_parameter=config.scale_by_parameter,
        )
        stages.append(adafactor)
    elif config.name == "adamw":
        stages.append(optax.scale_by_adam(config.b1, config.b2, config.epsilon))
    else:
        raise ValueError(f"optimizer name={config.name!r} is neither adafactor nor adamw")
    if config.weight_decay:
        decays = jax.tree.map(lambda names: _decays(names, no_decay), axes)
        stages.append(optax.add_decayed_weights(config.weight_decay, mask=decays))
    stages.append(optax.scale_by_learning_rate(make_schedule(config, steps)))
    chain = optax.chain(*stages)
    return chain if moments is None else optax.masked(chain, moments)


def optimizer_state_axes(
    optimizer: optax.GradientTransformation,
    config: OptimizerConfig,
    axes: Any,
    params_shapes: Any,
    moments: Any = None,
) -> Any:
    """The logical axes of every array in the optimizer's state, to shard it like the parameters.

    Args:
      optimizer: from `make_optimizer(config, axes, steps)`.
      config: the same one.
      axes: the same ones.
      params_shapes: tree of the parameters, or of their `jax.ShapeDtypeStruct`s.
      moments: the same ones.

    Returns:
      A tree structured like `optimizer.init(params)` with a `PartitionSpec` of axis names in place
      of each array; counts have an empty one.
    """

    kept, shapes = axes, params_shapes
    if moments is not None:
        kept, shapes = _masked(axes, moments), _masked(params_shapes, moments)

    def stage_axes(state: Any) -> Any:
        if isinstance(state, AdafactorState):
            return adafactor_state_axes(kept, shapes, min_factored=config.min_factored)
        if isinstance(state, optax.ScaleByAdamState):
            return optax.ScaleByAdamState(count=PartitionSpec(), mu=kept, nu=kept)
        return PartitionSpec()  # All that is left are counts.

    return jax.tree.map(
        stage_axes,
        jax.eval_shape(optimizer.init, params_shapes),
        is_leaf=lambda state: isinstance(state, AdafactorState | optax.ScaleByAdamState),
    )


def _masked(tree: Any, mask: Any) -> Any:
    """The tree as `optax.masked` shows it to what it wraps."""
    return jax.tree.map(lambda keep, x: x if keep else optax.MaskedNode(), mask, tree)


def _decays(names: PartitionSpec, no_decay: Collection[str]) -> bool:
    """Whether a parameter with these axes is subject to weight decay."""
    own = [name for name in names if name != BATCH]
    return len(own) > 1 and not set(no_decay) & set(own)
