"""The device mesh, and the one table of logical to physical axes.

Parameters and activations name their dimensions (`embed`, `heads`, `batch`, …); `RULES` says which
mesh axis cuts which. A layout is changed here and nowhere else.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5jax.config import MeshConfig
from t5jax.knobs import short

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("data", "fsdp")  # axes that cut a batch's rows
Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

# An axis without a rule is not cut. A mesh axis cuts at most one dimension of a tensor, the first
# rule that asks for it wins: so `embed` is cut over fsdp in parameters, and whole in activations,
# whose batch has taken fsdp.
RULES: Rules = (
    ("batch", BATCH_AXES),
    ("length", "sequence"),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("kv", None),
    ("layers", None),
)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `config` asks for over `devices` (default: all of them).

    Raises:
      ValueError: the axes' product is not the number of devices, or more than one axis is -1.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [getattr(config, axis) for axis in AXES]
    wanted = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise ValueError(f"mesh {wanted}: sizes are positive, and at most one is -1 (the rest)")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh {wanted} does not fit {len(devices)} device(s); "
            "the sizes' product must be their number (-1 takes what is left)"
        )
    # Linen's logical constraints speak to the partitioner; explicit axes, the default of
    # make_mesh, would ask for a sharding in every operation.
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)


def mesh_of(value: Mesh | Mapping[str, int] | None) -> Mesh | None:
    """A mesh whose axes are among `AXES`: given, or made of all devices from sizes by axis.

    Axes without a size have size 1.

    Raises:
      TypeError: it is neither. ValueError: another axis, or sizes that do not fit the devices.
    """
    if value is None:
        return None
    if not isinstance(value, Mesh | Mapping):
        raise TypeError(
            f'mesh={short(value)} must be a jax.sharding.Mesh, or sizes by axis, as {{"data": 4}}'
        )
    names = value.axis_names if isinstance(value, Mesh) else tuple(value)
    if unknown := [str(name) for name in names if name not in AXES]:
        raise ValueError(
            f"mesh has axes {', '.join(unknown)}; its axes must be among {', '.join(AXES)}"
        )
    if isinstance(value, Mapping):
        return make_mesh(MeshConfig(**{"data": 1, **value}))
    return Mesh(value.devices, names, axis_types=(AxisType.Auto,) * len(names))


def batch_parts(mesh: Mesh | None) -> int:
    """In how many parts a mesh cuts a batch's rows."""
    return 1 if mesh is None else math.prod(mesh.shape.get(name, 1) for name in BATCH_AXES)


def rules_of(mesh: Mesh) -> Rules:
    """`RULES` for the axes that a mesh has."""

    def there(axes: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(axes, str):
            return axes if axes in mesh.axis_names else None
        return tuple(name for name in axes or () if name in mesh.axis_names) or None

    return tuple((logical, there(axes)) for logical, axes in RULES)


def shardings(axes: Any, mesh: Mesh) -> Any:
    """A tree of PartitionSpecs of logical names -> the tree of their NamedShardings on `mesh`."""
    return nn.logical_to_mesh_sharding(axes, mesh, rules_of(mesh))


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """The sharding of one array with these logical axes."""
    spec: Any = nn.logical_to_mesh_axes(axes, rules_of(mesh))
    return NamedSharding(mesh, spec)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, PartitionSpec())


def check_divisible(shapes: Any, axes: Any, mesh: Mesh) -> None:
    """Raises ValueError where a dimension does not divide over the mesh axes that cut it."""
    leaves, rules = jax.tree.leaves_with_path(shapes), rules_of(mesh)
    for (path, leaf), spec in zip(leaves, jax.tree.leaves(axes), strict=True):
        physical: Any = nn.logical_to_mesh_axes(tuple(spec), rules)
        for size, logical, cut in zip(leaf.shape, spec, physical, strict=True):
            names = (cut,) if isinstance(cut, str) else cut or ()
            parts = math.prod(mesh.shape[name] for name in names)
            if size % parts:
                fitting = [n for n in range(1, parts + 1) if size % n == 0]
                raise ValueError(
                    f"{logical}={size} of {jax.tree_util.keystr(path, simple=True, separator='/')} "
                    f"does not divide over {'*'.join(names)}={parts}; "
                    f"sizes that do: {', '.join(map(str, fitting))}"
                )


@contextlib.contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
    """Within it, Linen's logical constraints apply on `mesh`; without a mesh they do nothing."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules_of(mesh)):
        yield
