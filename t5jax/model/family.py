"""`Family`: one family of models, and the registry of families.

A family is a folder beside this file that registers one `Family`. Nothing outside that folder names
its classes, parameters or fields. This module imports no JAX, so that `--help` and the checks of a
configuration are fast.
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
    """Array entries a token, for estimates of memory.

    `cached`: keys and values of a decoder token in all layers. `encoder`, `decoder`: the fewest
    that a backward pass keeps. `widest`: activations in one encoder layer.
    """

    cached: int
    encoder: int
    decoder: int
    widest: int


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
      name: its name in model.json and in a configuration's `model.family`.
      config: its class of configurations, a `ModelConfig`.
      variants: published sizes by name.
      training: `training(config, dtype, remat=…, scan=…)`, a Linen module over the training
        parameters. Called with input ids int[B, S], decoder input ids int[B, T], the segments of
        both and `dropout_key`, it gives logits float32[B, T, V]. Methods of it are `encode`, and
        `define`, which makes all parameters and computes nothing.
      serving: `serving(config, dtype)`, a `Network` over the serving parameters.
      layout: the serving layout of a configuration.
      depths: number of layers by the name of the stack.
      step_flops: `step_flops(config, batch, inputs, targets)`, FLOPs of a training step.
      sizes: the `Sizes` of a configuration.
      no_decay: logical axes whose parameters have no weight decay, beside all with one axis.
      formats: by checkpoint format, the module of the family's tensor table.
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
        """The module of the family's tensor table for a checkpoint format.

        Raises:
          ValueError: the family has none.
        """
        if format not in self.formats:
            has = f"; it has {', '.join(self.formats)}" if self.formats else ""
            raise ValueError(f"family {self.name} has no tensor table for format {format!r}{has}")
        return importlib.import_module(self.formats[format])


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Adds a family, in place of one with its name."""
    _FAMILIES[family.name] = family
    return family


def unregister(name: str) -> None:
    """Removes a family."""
    del _FAMILIES[name]


def families() -> Iterator[Family]:
    """The registered families; the first is the default of a configuration."""
    return iter(_FAMILIES.values())


def default_family() -> Family:
    """The family of a configuration without `model.family`."""
    return next(families())


def named(name: Any) -> Family:
    """The family called `name`.

    Raises:
      ValueError: there is none; the message has the nearest name.
    """
    if not isinstance(name, str) or name not in _FAMILIES:
        raise ValueError(f"model.family={name!r} is unknown; {nearest(name, _FAMILIES)}")
    return _FAMILIES[name]


def family_of(config: ModelConfig) -> Family:
    """The family of a configuration.

    Raises:
      TypeError: its class belongs to no registered family.
    """
    for family in families():
        if type(config) is family.config:
            return family
    raise TypeError(f"{type(config).__name__} is the configuration of no registered family")


def variants() -> dict[str, Any]:
    """The published sizes of all families, by name."""
    return {name: config for family in families() for name, config in family.variants.items()}
