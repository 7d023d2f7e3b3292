"""The configured optimizer, and the logical axes of its state.

Weight decay applies to matrices: the embedding, the head and projections, with two or more axes
besides `layers`. Norm scales and biases (one axis) do not decay, nor do parameters with an axis in
the family's `no_decay`, such as tables of relative biases: decay would shrink activations and
flatten attention rather than regularise.
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
    """Clipping, the optimizer, decoupled weight decay, times minus the learning rate.

    A step subtracts `weight_decay * learning_rate` times a matrix from it (Loshchilov & Hutter
    2019, arXiv:1711.05101, section 2).

    Args:
      config: a run's `optimizer` section.
      axes: a tree like the parameters, of `PartitionSpec`s of axis names.
      steps: steps of the run, the end of a decaying learning rate.
      moments: a tree like the parameters, of booleans: False where the optimizer keeps no moments.
        The update is then the gradient, which must be zero. Default: True everywhere.
      no_decay: axes whose parameters have no weight decay.

    Returns:
      A transformation whose `update` needs the parameters.

    Raises:
      ValueError: from `make_schedule`.
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
    else:
        stages.append(optax.scale_by_adam(config.b1, config.b2, config.epsilon))
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
    """The logical axes of the optimizer's state, which is sharded like the parameters.

    Args:
      optimizer: of `make_optimizer`, with the same `config`, `axes` and `moments`.
      config: a run's `optimizer` section.
      axes: a tree like the parameters, of `PartitionSpec`s of axis names.
      params_shapes: a tree of the parameters or their `jax.ShapeDtypeStruct`s.
      moments: as for `make_optimizer`.

    Returns:
      A tree like `optimizer.init(params)` with a `PartitionSpec` in place of each array, empty for
      counts.
    """
    kept, shapes = axes, params_shapes
    if moments is not None:
        kept, shapes = _masked(axes, moments), _masked(params_shapes, moments)

    def stage_axes(state: Any) -> Any:
        if isinstance(state, AdafactorState):
            return adafactor_state_axes(kept, shapes, min_factored=config.min_factored)
        if isinstance(state, optax.ScaleByAdamState):
            return optax.ScaleByAdamState(count=PartitionSpec(), mu=kept, nu=kept)
        return PartitionSpec()  # counts

    return jax.tree.map(
        stage_axes,
        jax.eval_shape(optimizer.init, params_shapes),
        is_leaf=lambda state: isinstance(state, AdafactorState | optax.ScaleByAdamState),
    )


def _masked(tree: Any, mask: Any) -> Any:
    """The tree as the transformation inside `optax.masked` sees it."""
    return jax.tree.map(lambda keep, x: x if keep else optax.MaskedNode(), mask, tree)


def _decays(names: PartitionSpec, no_decay: Collection[str]) -> bool:
    """Whether weight decay applies to a parameter with these axes."""
    own = [name for name in names if name != BATCH]
    return len(own) > 1 and not set(no_decay) & set(own)
