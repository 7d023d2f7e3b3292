"""Training states with stacked or unstacked layers.

Checkpoints always have stacked layers, so a resumed run may change `training.scan_layers`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh, PartitionSpec

from t5jax import sharding
from t5jax.config import RunConfig
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.family import family_of
from t5jax.model.parameters import (
    abstract_params,
    init_params,
    logical_axes,
    stack,
    unstack,
    unstack_axes,
)
from t5jax.training import freezing
from t5jax.training.checkpoints import abstract_state
from t5jax.training.optimizers import make_optimizer, optimizer_state_axes
from t5jax.training.step import TrainState, init_state


@dataclasses.dataclass(frozen=True)
class Layout:
    """A run's optimizer and training state in one layout, on the run's mesh.

    Attributes:
      model: the architecture.
      optimizer: for parameters in this layout.
      shardings: a TrainState of NamedShardings.
      abstract: a TrainState of jax.ShapeDtypeStructs with these shardings.
      begin: parameters with stacked layers -> the sharded state before the first step.
      fresh: random key -> the same state with new parameters.
      trained: `freezing.trained(…)` in this layout; None if nothing is frozen.
    """

    model: ModelConfig
    optimizer: optax.GradientTransformation
    shardings: TrainState
    abstract: TrainState
    begin: Callable[[Params], TrainState]
    fresh: Callable[[jax.Array], TrainState]
    trained: Params | None = None


def make_layout(config: RunConfig, mesh: Mesh, *, stacked: bool) -> Layout:
    """The layout with stacked or unstacked layers."""
    axes, shapes = logical_axes(config.model), abstract_params(config.model)
    if not stacked:
        axes, shapes = unstack_axes(axes, config.model), jax.eval_shape(unstack, shapes)
    trained = moments = None
    if config.optimizer.freeze:
        trained = freezing.trained(config.optimizer.freeze, config.model)
        moments = freezing.with_moments(trained, config.model, stacked=stacked)
        if not stacked:
            trained = unstack(trained, config.model)
    optimizer = make_optimizer(
        config.optimizer,
        axes,
        config.training.steps,
        moments,
        family_of(config.model).no_decay,
    )

    def begin(params: Params) -> TrainState:
        if not stacked:
            params = unstack(params)
        return init_state(params, optimizer, config.training.seed)

    def fresh(key: jax.Array) -> TrainState:
        return begin(init_params(config.model, key))

    none: Any = PartitionSpec()
    places = sharding.shardings(
        TrainState(
            none,
            axes,
            optimizer_state_axes(optimizer, config.optimizer, axes, shapes, moments),
            none,
        ),
        mesh,
    )
    return Layout(
        config.model,
        optimizer,
        places,
        abstract_state(jax.eval_shape(fresh, jax.random.key(0)), places),
        jax.jit(begin, out_shardings=places),
        jax.jit(fresh, out_shardings=places),
        trained,
    )


def stack_state(state: TrainState, layout: Layout) -> TrainState:
    """A copy of an unstacked state in the stacked `layout`."""
    return jax.jit(functools.partial(_convert, stack), out_shardings=layout.shardings)(state)


def unstack_state(state: TrainState, layout: Layout) -> TrainState:
    """A copy of a stacked state in the unstacked `layout`."""
    return jax.jit(
        functools.partial(_convert, functools.partial(unstack, config=layout.model)),
        out_shardings=layout.shardings,
    )(state)


def _convert(convert: Callable[[Params], Params], state: TrainState) -> TrainState:
    """`convert` on the parameters and on the optimizer's trees of moments."""

    def is_tree(x: Any) -> bool:
        return isinstance(x, Mapping)

    return jax.tree.map(lambda x: convert(x) if is_tree(x) else x, state, is_leaf=is_tree)
