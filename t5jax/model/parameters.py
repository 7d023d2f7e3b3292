"""Parameter trees of any family, for training and serving.

A training tree has stacked layers: leaves below the key `layers` have a leading layer axis.
`unstack` splits them into `layers_0`, …. A serving tree has unstacked layers and its family's
serving layout (`t5jax.model.layout`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec

from t5jax.model import layout
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.family import family_of
from t5jax.ops.quantized import Int4, Int8, Quantized, Scheme


def _boxed(config: ModelConfig, key: jax.Array) -> Any:
    return family_of(config).training(config).init(key, method="define")["params"]


def define(module: nn.Module, *skip: str) -> None:
    """Makes the parameters of a module and its submodules, except for the attributes `skip`.

    Each module makes its own in `setup`. Tracing a computation instead takes ten times as long.
    """
    getattr(module, "any", None)  # Flax runs `setup` at the first access to an attribute
    for name, value in list(vars(module).items()):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, nn.Module) and name not in ("parent", *skip):
                define(part)


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """A new float32 training tree; under jit with out_shardings it is made sharded."""
    return nn.unbox(_boxed(config, key))


@functools.lru_cache(maxsize=16)
def _abstract(config: ModelConfig) -> tuple[Params, Params]:
    """Shapes and logical axes of the training tree; cached, because it takes time."""
    boxed = jax.eval_shape(lambda: _boxed(config, jax.random.key(0)))
    # Within a mesh `nn.unbox` would constrain values; these are shapes.
    shapes = jax.tree.map(lambda box: box.value, boxed, is_leaf=_is_box)
    return shapes, nn.get_partition_spec(boxed)


def _is_box(x: Any) -> bool:
    return isinstance(x, nn.meta.AxisMetadata)


def abstract_params(config: ModelConfig, *, serving: bool = False) -> Params:
    """The training or serving tree as float32 jax.ShapeDtypeStructs."""
    if not serving:
        return _abstract(config)[0]
    shapes = paths(config)
    table = layout.rows(family_of(config).layout(config), shapes)
    return unflatten_dict(
        {
            path: jax.ShapeDtypeStruct(row.shape(shapes[parts[0]]), jnp.float32)
            for path, row, parts in table
        },
        sep="/",
    )


def logical_axes(config: ModelConfig, *, serving: bool = False) -> Params:
    """The tree of `abstract_params` with PartitionSpecs of logical axis names as leaves."""
    axes = _abstract(config)[1]
    if not serving:
        return axes
    flat = flatten_dict(unstack_axes(axes, config), sep="/")
    table = layout.rows(family_of(config).layout(config), flat)
    return unflatten_dict({path: row.axes(flat[parts[0]]) for path, row, parts in table}, sep="/")


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """The size of every logical axis of the training parameters, by name."""
    leaves = zip(
        jax.tree.leaves(abstract_params(config)), jax.tree.leaves(logical_axes(config)), strict=True
    )
    return {
        name: size
        for leaf, axes in leaves
        for name, size in zip(axes, leaf.shape, strict=False)
        if name is not None
    }


@functools.lru_cache(maxsize=16)
def paths(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every training parameter by its path with unstacked layers."""
    out: dict[str, tuple[int, ...]] = {}
    for path, leaf in flatten_dict(_abstract(config)[0], sep="/").items():
        if "/layers/" not in path:
            out[path] = leaf.shape
            continue
        for i in range(leaf.shape[0]):
            out[path.replace("/layers/", f"/layers_{i}/")] = leaf.shape[1:]
    return out


def count_parameters(params: Params) -> int:
    """Number of parameters in a real or abstract tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def unstack(params: Params, config: ModelConfig | None = None) -> dict[str, Any]:
    """Stacked layers -> one subtree a layer, also in trees of an optimizer's moments.

    Every layer gets a scalar leaf unchanged. A stack of scalars only needs `config` for its depth.
    """

    def layers_of(name: str, tree: Params) -> dict[str, Any]:
        layers = tree["layers"]
        depth = _depth(config, name) if config else jax.tree.leaves(layers)[0].shape[0]
        return {
            f"layers_{i}": jax.tree.map(lambda x, i=i: x[i] if x.ndim else x, layers)
            for i in range(depth)
        }

    return _map_stacks(layers_of, params)


def unstack_axes(axes: Params, config: ModelConfig) -> dict[str, Any]:
    """`unstack` for `logical_axes`."""

    def layers_of(name: str, tree: Params) -> dict[str, Any]:
        layer = jax.tree.map(lambda spec: PartitionSpec(*spec[1:]), tree["layers"])
        return {f"layers_{i}": layer for i in range(_depth(config, name))}

    return _map_stacks(layers_of, axes)


def _depth(config: ModelConfig, stack: str) -> int:
    return family_of(config).depths(config)[stack]


def _map_stacks(
    layers_of: Callable[[str, Params], dict[str, Any]], params: Params
) -> dict[str, Any]:
    """`params` with `layers_of(name, subtree)` in place of the `layers` of each stack."""
    return {
        name: {k: v for k, v in tree.items() if k != "layers"} | layers_of(name, tree)
        if isinstance(tree, Mapping) and "layers" in tree
        else tree
        for name, tree in params.items()
    }


def stack(params: Params) -> Params:
    """The inverse of `unstack`."""

    def together(tree: Any) -> Any:
        if not isinstance(tree, Mapping) or "layers_0" not in tree:
            return tree
        depth = sum(k.startswith("layers_") for k in tree)
        layers = [tree[f"layers_{i}"] for i in range(depth)]
        rest = {k: v for k, v in tree.items() if not k.startswith("layers_")}
        joined = jax.tree.map(lambda *x: jnp.stack(x) if x[0].ndim else x[0], *layers)
        return rest | {"layers": joined}

    return {name: together(tree) for name, tree in params.items()}


def is_serving(params: Params) -> bool:
    """Whether layers are unstacked."""
    return not any(isinstance(tree, Mapping) and "layers" in tree for tree in params.values())


def for_serving(config: ModelConfig, params: Params) -> Params:
    """A training tree -> the serving tree."""
    flat = flatten_dict(unstack(params), sep="/")
    table = layout.rows(family_of(config).layout(config), flat)
    return unflatten_dict(
        {path: row.join([flat[part] for part in parts], jnp) for path, row, parts in table}, sep="/"
    )


def from_serving(config: ModelConfig, params: Params) -> Params:
    """The inverse of `for_serving`."""
    return stack(apart(config, params))


def apart(config: ModelConfig, params: Params) -> Params:
    """A serving tree -> the training parameters with unstacked layers."""
    table, out = family_of(config).layout(config), {}
    for path, leaf in flatten_dict(params, sep="/").items():
        row, module = layout.row_of(table, path), path.rpartition("/")[0]
        for part, array in zip(row.parts, row.split(leaf, jnp), strict=True):
            out[f"{module}/{part}"] = array
    return unflatten_dict(out, sep="/")


def quantize(config: ModelConfig, params: Params, scheme: Scheme) -> Params:
    """A serving tree -> the tree with `Quantized` kernels.

    Raises:
      ValueError: a kernel does not fit the scheme.
    """
    table = family_of(config).layout(config)
    flat = flatten_dict(params, sep="/")
    return unflatten_dict(
        {
            path: quantize_leaf(layout.row_of(table, path), path, leaf, scheme)
            for path, leaf in flat.items()
        },
        sep="/",
    )


def quantize_leaf(row: layout.Leaf, path: str, leaf: Any, scheme: Scheme, xp: Any = jnp) -> Any:
    """A serving parameter, quantized if it is a kernel of the scheme; `xp` is jnp, or np.

    Raises:
      ValueError: the kernel does not fit the scheme.
    """
    if not row.contracted or (row.head and not scheme.head):
        return leaf
    make = Int8.of if scheme.kind == "int8" else Int4.of
    try:
        return make(leaf, row.contracted, xp)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def scheme_of(config: ModelConfig, params: Params) -> Scheme | None:
    """How a serving tree is quantized; None if it is not."""
    table = family_of(config).layout(config)
    kernels = {
        path: leaf
        for path, leaf in flatten_dict(params, sep="/").items()
        if isinstance(leaf, Quantized)
    }
    if not kernels:
        return None
    head = any(layout.row_of(table, path).head for path in kernels)
    return Scheme("int8" if isinstance(next(iter(kernels.values())), Int8) else "int4", head)
