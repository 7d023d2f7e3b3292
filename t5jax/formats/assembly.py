"""Parameters put together from single tensors, one at a time, and placed on their devices.

The host holds no more than one parameter beside the shards.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from t5jax import sharding
from t5jax.formats.memory import empty, free_huge_pages
from t5jax.model import layout
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.family import family_of
from t5jax.model.parameters import abstract_params, logical_axes, quantize_leaf
from t5jax.model.tensors import Tensors
from t5jax.ops.quantized import Quantized, Scheme

# A tree of parameters: with stacked layers for training, for serving, or for serving with
# quantized kernels.
Form = Literal["training", "serving"] | Scheme


def assemble(
    config: ModelConfig,
    tensors: Tensors,
    form: Form,
    dtype: Any,
    mesh: Mesh | None = None,
) -> Params:
    """Reads tensors into a tree, parameter by parameter; `dtype`: of what is not quantized.

    Raises:
      ValueError: a dimension does not divide over the mesh.
    """
    serving = form != "training"
    places = flatten_dict(placements(config, mesh, serving=serving), sep="/")
    if serving:
        quantize = form if isinstance(form, Scheme) else None
        values = {
            path: place(x, places[path]) for path, x in _fused(config, tensors, dtype, quantize)
        }
    else:
        values = {path: _stacked(path, tensors, dtype, where) for path, where in places.items()}
    return unflatten_dict(values, sep="/")


def placements(config: ModelConfig, mesh: Mesh | None, *, serving: bool = False) -> Params:
    """The sharding of every parameter: on the first device without a mesh.

    Raises:
      ValueError: a dimension does not divide over the mesh.
    """
    shapes = abstract_params(config, serving=serving)
    if mesh is None:
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(lambda _: one, shapes)
    axes = logical_axes(config, serving=serving)
    sharding.check_divisible(shapes, axes, mesh)
    return sharding.shardings(axes, mesh)


def place(array: Any, where: jax.sharding.Sharding) -> Any:
    """A host array on the devices of `where`, or a quantized kernel whose shape has that place.

    Each process places its own shards.
    """
    if isinstance(array, Quantized):
        return jax.tree.map(place, array, array.places(where))
    if len(where.device_set) == 1:
        return jax.device_put(np.ascontiguousarray(array), where)
    return jax.make_array_from_callback(
        array.shape, where, lambda index: np.ascontiguousarray(array[index])
    )


def _stacked(path: str, tensors: Tensors, dtype: Any, where: jax.sharding.Sharding) -> jax.Array:
    """One parameter of the tree with stacked layers, put together in the shards of this host."""
    if "/layers/" not in path:
        return place(tensors[path].read().astype(dtype, copy=False), where)
    names = map(path.replace("/layers/", "/layers_{}/").format, itertools.count())
    layers = [tensors[name] for name in itertools.takewhile(tensors.__contains__, names)]
    shape = (len(layers), *layers[0].shape)
    # Layers are never cut: every shard has its piece of each. Replicas share one buffer.
    devices: Any = where.addressable_devices_indices_map(shape)
    pieces = {str(index): index[1:] for index in devices.values()}
    shards = {key: np.empty(where.shard_shape(shape), dtype) for key in pieces}
    for i, layer in enumerate(layers):
        array = layer.read()
        for key, piece in pieces.items():
            # Assigned in place: NumPy casts and transposes on the way.
            shards[key][i] = array[piece]
    arrays = [jax.device_put(shards[str(index)], device) for device, index in devices.items()]
    return jax.make_array_from_single_device_arrays(shape, where, arrays)


def _fused(
    config: ModelConfig, tensors: Tensors, dtype: Any, quantize: Scheme | None
) -> Iterator[tuple[str, Any]]:
    """The serving parameters by path, read and put together one after the other."""
    size = sum(math.prod(tensor.shape) for tensor in tensors.values()) * np.dtype(dtype).itemsize
    huge = size <= free_huge_pages()

    def order(item: tuple[str, layout.Leaf, list[str]]) -> tuple[bool, str, int]:
        # The large tables first: one thread reads each, beside others. A parameter's layers one
        # after the other: formats with stacked layers read them at once.
        layer = re.search(r"layers_(\d+)", item[0])
        kind = re.sub(r"layers_\d+", "layers", item[0])
        return layer is not None, kind, int(layer[1]) if layer else 0

    def read(item: tuple[str, layout.Leaf, list[str]]) -> tuple[str, Any]:
        path, row, parts = item
        x = row.join([tensors[part].read() for part in parts], _Lazily)
        if quantize:
            x = quantize_leaf(row, path, _copied(x, np.float32), quantize, np)
        return path, x if isinstance(x, Quantized) else _copied(x, dtype, huge)

    table = layout.rows(family_of(config).layout(config), tensors)
    yield from _ahead(read, sorted(table, key=order))


class _Stack(NamedTuple):
    """As `np.stack`."""

    arrays: list[np.ndarray]
    axis: int


class _Lazily:
    """NumPy as `Leaf.join` needs it, with nothing copied yet."""

    transpose = staticmethod(np.transpose)
    expand_dims = staticmethod(np.expand_dims)
    stack = staticmethod(_Stack)


def _copied(x: np.ndarray | _Stack, dtype: Any, huge: bool = False) -> np.ndarray:
    """An array in `dtype` that nobody will change, moved and cast in one pass.

    `x` itself if it is aligned, read-only and in `dtype`, perhaps in the pages of a mapped file.
    """
    if isinstance(x, np.ndarray):
        whole = x.flags.c_contiguous and x.ctypes.data % 64 == 0
        if whole and x.dtype == dtype and not x.flags.writeable:
            return x
    arrays, axis = x if isinstance(x, _Stack) else ([x], 0)
    shape = list(arrays[0].shape)
    shape.insert(axis, len(arrays))
    out = empty(tuple(shape), dtype, huge=huge)
    for i, array in enumerate(arrays):
        out[(slice(None),) * axis + (i,)] = array
    return out if isinstance(x, _Stack) else out[0]


def _ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`map(function, items)` on two threads, ahead of its use: new memory is slow to get."""
    with ThreadPoolExecutor(2) as pool:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
