"""Layers stacked or apart: how a run trains with them, and how its checkpoints have them.

Checkpoints always have stacked layers, so a run may change `training.scan_layers` when it goes on.
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
    """A run's optimizer and the states it makes, on the run's mesh.

    Attributes:
      model: the architecture.
      optimizer: for parameters laid out this way.
      shardings: a TrainState of NamedShardings.
      abstract: a TrainState of jax.ShapeDtypeStruct with those shardings.
      begin: parameters with stacked layers -> the state before the first step, in place.
      fresh: a random key -> the same, with new parameters.
      trained: what `freezing.trained` gives; None where nothing is frozen.
    """

    model: ModelConfig
    optimizer: optax.GradientTransformation
    shardings: TrainState
    abstract: TrainState
    begin: Callable[[Params], TrainState]
    fresh: Callable[[jax.Array], TrainState]
    trained: Params | None = None


def make_layout(config: RunConfig, mesh: Mesh, *, stacked: bool) -> Layout:
    """The layout with stacked layers, or with layers apart."""
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
    """Layers apart -> the same state in `layout`, whose layers are stacked; a copy."""
    return jax.jit(functools.partial(_convert, stack), out_shardings=layout.shardings)(state)


def unstack_state(state: TrainState, layout: Layout) -> TrainState:
    """Stacked layers -> the same state in `layout`, whose layers are apart."""
    return jax.jit(
        functools.partial(_convert, functools.partial(unstack, config=layout.model)),
        out_shardings=layout.shardings,
    )(state)


def _convert(convert: Callable[[Params], Params], state: TrainState) -> TrainState:
    """`convert` on the parameters and on every tree like them: gradients' moments."""

    def is_tree(x: Any) -> bool:
        return isinstance(x, Mapping)

    return jax.tree.map(lambda x: convert(x) if is_tree(x) else x, state, is_leaf=is_tree)
