"""The serving layout: how training parameters become serving parameters, and back.

A family's table gives each serving parameter a `Leaf`. Loading, saving, quantizing and sharding
follow it. A parameter that it does not name is an error.

Paths have unstacked layers (in T5, `encoder/layers_0/mlp/wi`). A row's name is a path's module and
leaf: `mlp/wi`, or `layers/scale` for a leaf of the layer itself.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import PartitionSpec


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One serving parameter.

    Attributes:
      parts: the training parameters of the same module that are fused.
      transpose: the training dimensions in serving order; (): unchanged.
      axis: the serving dimension along which parts are stacked; None: one part, not stacked.
      contracted: how many of the last dimensions a product sums over. 0: not a kernel, never
        quantized.
      head: whether it is the output head.
    """

    parts: tuple[str, ...]
    transpose: tuple[int, ...] = ()
    axis: int | None = None
    contracted: int = 0
    head: bool = False

    def join(self, arrays: Any, xp: Any) -> Any:
        """Training arrays, in the order of `parts` -> the serving array."""
        turned = [xp.transpose(x, self.transpose) if self.transpose else x for x in arrays]
        if self.axis is None:
            return turned[0]
        # expand_dims is a view on the host; stack would copy.
        return xp.stack(turned, self.axis) if turned[1:] else xp.expand_dims(turned[0], self.axis)

    def split(self, array: Any, xp: Any) -> list[Any]:
        """The inverse of `join`."""
        arrays = [array] if self.axis is None else list(xp.moveaxis(array, self.axis, 0))
        back = tuple(int(i) for i in np.argsort(self.transpose))
        return [xp.transpose(x, back) if back else x for x in arrays]

    def shape(self, part: tuple[int, ...]) -> tuple[int, ...]:
        """The serving array's shape, from a part's."""
        return tuple(self._placed(part, len(self.parts)))

    def axes(self, part: PartitionSpec) -> PartitionSpec:
        """The serving array's logical axes, from a part's."""
        return PartitionSpec(*self._placed(tuple(part), None))

    def _placed(self, part: Sequence[Any], stacked: Any) -> list[Any]:
        found = [part[i] for i in self.transpose] if self.transpose else list(part)
        if self.axis is not None:
            found.insert(self.axis, stacked)
        return found


def same(name: str) -> Leaf:
    """The row of a parameter that is the same in training and serving."""
    return Leaf((name,))


Layout = Mapping[str, Leaf]


def row_of(layout: Layout, path: str) -> Leaf:
    """The row of a serving path.

    Raises:
      ValueError: the layout has none.
    """
    module, _, leaf = path.rpartition("/")
    name = f"{_name(module)}/{leaf}"
    if name not in layout:
        raise ValueError(f"the serving layout has no parameter {path}")
    return layout[name]


def rows(layout: Layout, paths: Iterable[str]) -> Iterator[tuple[str, Leaf, list[str]]]:
    """Each serving path with its row and the training paths of its parts.

    Raises:
      ValueError: a training path belongs to no serving parameter, or a part is missing.
    """
    modules: dict[str, set[str]] = {}
    for path in paths:
        module, _, leaf = path.rpartition("/")
        modules.setdefault(module, set()).add(leaf)
    by_module: dict[str, list[tuple[str, Leaf]]] = {}
    for name, row in layout.items():
        module, _, leaf = name.rpartition("/")
        by_module.setdefault(module, []).append((leaf, row))
    for module, leaves in modules.items():
        for leaf, row in by_module.get(_name(module), ()):
            if not leaves & set(row.parts):
                continue
            missing = [part for part in row.parts if part not in leaves]
            if missing:
                raise ValueError(f"parameter {module}/{missing[0]} is missing")
            leaves -= set(row.parts)
            yield f"{module}/{leaf}", row, [f"{module}/{part}" for part in row.parts]
        if leaves:
            raise ValueError(f"the serving layout has no place for {module}/{min(leaves)}")


def _name(module: str) -> str:
    """The last part of a module's path; `layers` of `layers_0`."""
    return re.sub(r"^layers_\d+$", "layers", module.rpartition("/")[2])
