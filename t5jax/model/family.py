"""`Family`: what a family of models brings, and the registry of those that there are.

A family is a folder beside this file that registers one `Family`. Nothing outside that folder names
its classes, parameters or fields. This module imports no JAX: configurations are declared and
checked by commands that must answer at once.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from t5jax.knobs import nearest

if TYPE_CHECKING:
    from t5jax.model.contract import ModelConfig, Network
    from t5jax.model.layout import Layout


class Sizes(NamedTuple):
    """Numbers that computing takes for one token, for estimates of memory.

    `cached`: keys and values of one decoder token in all layers. `encoder`, `decoder`: what a
    backward pass keeps of a token at least. `widest`: activations of a token in one encoder layer.
    """

    cached: int
    encoder: int
    decoder: int
    widest: int


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
      name: as model.json and a configuration's `model.family` have it.
      config: the class of its configurations, a `ModelConfig`.
      variants: published sizes by name.
      training: `training(config, dtype, remat=…, scan=…)`, a Linen module over the training
        parameters. Called with input ids int[B, S], decoder input ids int[B, T], the segments of
        both and `dropout_key`, it gives logits float32[B, T, V]. Methods of it are `encode`, and
        `define`, which makes all parameters and computes nothing.
      serving: `serving(config, dtype)`, a `Network` over the serving parameters.
      layout: the serving layout of a configuration's parameters.
      depths: layers by the name of the subtree that stacks them.
      step_flops: `step_flops(config, batch, inputs, targets)`, FLOPs of a training step.
      sizes: what a token takes.
      no_decay: logical axes whose parameters have no weight decay, beside all with one axis.
      formats: the module of the family's tensor table, by checkpoint format.
    """

    name: str
    config: Any
    variants: Mapping[str, Any]
    training: Callable[..., Any]
    serving: Callable[[Any, Any], Network]
    layout: Callable[[Any], Layout]
    depths: Callable[[Any], Mapping[str, int]]
    step_flops: Callable[[Any, int, int, int], float]
    sizes: Callable[[Any], Sizes]
    no_decay: frozenset[str] = frozenset()
    formats: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def table(self, format: str) -> Any:
        """The module of the family's tensor table of a checkpoint format.

        Raises:
          ValueError: the family has none.
        """
        if format not in self.formats:
            has = f"; it has {', '.join(self.formats)}" if self.formats else ""
            raise ValueError(f"family {self.name} has no tensor table for format {format!r}{has}")
        return importlib.import_module(self.formats[format])


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Adds a family; a second one of its name takes its place."""
    _FAMILIES[family.name] = family
    return family


def unregister(name: str) -> None:
    """Takes a family out of the registry."""
    del _FAMILIES[name]


def families() -> Iterator[Family]:
    """All that are registered, in that order; the first is the default of a configuration."""
    return iter(_FAMILIES.values())


def default_family() -> Family:
    """The family of a configuration that names none."""
    return next(families())


def named(name: Any) -> Family:
    """The family of a name.

    Raises:
      ValueError: there is none; with the nearest name.
    """
    if not isinstance(name, str) or name not in _FAMILIES:
        raise ValueError(f"model.family={name!r} is unknown; {nearest(name, _FAMILIES)}")
    return _FAMILIES[name]


def family_of(config: ModelConfig) -> Family:
    """The family of a configuration.

    Raises:
      TypeError: its class is of no registered family.
    """
    for family in families():
        if type(config) is family.config:
            return family
    raise TypeError(f"{type(config).__name__} is the configuration of no registered family")


def variants() -> dict[str, Any]:
    """The published sizes of all families, by name."""
    return {name: config for family in families() for name, config in family.variants.items()}
