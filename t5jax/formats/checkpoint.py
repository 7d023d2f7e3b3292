"""What every checkpoint format opens to: a `Checkpoint`, its tensors unread until asked for.

Tensors go by their path in the tree with layers apart (`encoder/layers_0/mlp/wi`), have the shapes
that training gives them, and are read one at a time: cast, put together and placed on their
devices, so that the host holds no more than one parameter beside the shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from t5jax import sharding
from t5jax.formats.memory import empty, free_huge_pages
from t5jax.model import layout
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.family import family_of
from t5jax.model.parameters import (
    abstract_params,
    apart,
    for_serving,
    is_serving,
    logical_axes,
    quantize_leaf,
    unstack,
)
from t5jax.model.parameters import quantize as quantize_tree
from t5jax.ops.quantized import Quantized, Scheme, map_kernels
from t5jax.vocabulary import Vocabulary


class Tensor(NamedTuple):
    """One array of a file, not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


Tensors = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as a format describes it.

    Attributes:
      config: the architecture.
      tensors: every parameter, by its path with layers apart.
      vocabulary: None where the checkpoint has none with it.
      generation: default options of generation, by name.
      max_input_length: tokens of an input that the model was trained on, where that is known.
      assumed: fields of `config` that the files do not tell, and what they were taken for.
      unused: what the files hold and the model has no place for, allowed by the caller.
      missing: parameters that the files do not hold, allowed by the caller: they are zeros.
      stacked: the format's own way to the tree with stacked layers, `stacked(dtype, mesh)`.
      quantized: the way to a tree for serving with quantized kernels, `quantized(dtype, mesh)`,
        of a checkpoint that holds nothing else; it has no tensors then.
      scheme: how the kernels of such a checkpoint are quantized.
    """

    config: Any  # a ModelConfig
    tensors: Tensors
    vocabulary: Vocabulary | None = None
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_input_length: int | None = None
    assumed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    stacked: Callable[[Any, Mesh | None], Params] | None = None
    quantized: Callable[[Any, Mesh | None], Params] | None = None
    scheme: Scheme | None = None

    @property
    def limit(self) -> int | None:
        """Ids of the vocabulary, where there is one; those past it are never generated."""
        return None if self.vocabulary is None else self.vocabulary.vocab_size

    def params(
        self,
        dtype: Any = np.float32,
        mesh: Mesh | None = None,
        *,
        serving: bool = False,
        quantize: Scheme | None = None,
    ) -> Params:
        """The parameters in `dtype` on `mesh` (default: the first device).

        With stacked layers, as training has them; with `serving`, as `for_serving` lays
        them out; with `quantize`, that tree quantized so.

        Raises:
          ValueError: the checkpoint is quantized, and something else is asked for.
        """
        if self.quantized is not None:
            if quantize is not None and quantize != self.scheme:
                raise ValueError(
                    f"this checkpoint is quantized already, as {self.scheme}; {quantize} can only "
                    "be made of the one that it was made from"
                )
            if not serving:
                raise ValueError(
                    "this checkpoint is quantized: it can be loaded and saved as it is, and "
                    "neither trained nor converted; take the one that it was made from"
                )
            return self.quantized(dtype, mesh)
        if self.stacked is None:
            return assemble(
                self.config, self.tensors, dtype, mesh, serving=serving, quantize=quantize
            )
        if quantize:
            # Of the kernels as they are stored: what is rounded twice is further off.
            stored = next(iter(self.tensors.values())).dtype
            params = self.stacked(stored, mesh)
            config, scheme = self.config, quantize
            params = jax.jit(lambda x: quantize_tree(config, for_serving(config, x), scheme))(
                params
            )
            return map_kernels(lambda x: x.astype(dtype), params)
        params = self.stacked(dtype, mesh)
        if not serving:
            return params
        return jax.jit(functools.partial(for_serving, self.config))(params)


def assemble(
    config: ModelConfig,
    tensors: Tensors,
    dtype: Any,
    mesh: Mesh | None,
    *,
    serving: bool,
    quantize: Scheme | None = None,
) -> Params:
    """Reads tensors into one of the two trees, parameter by parameter.

    Raises:
      ValueError: a dimension does not divide over the mesh.
    """
    places = flatten_dict(placements(config, mesh, serving=serving), sep="/")
    if serving:
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
    """What `np.stack` would make."""

    arrays: list[np.ndarray]
    axis: int


class _Lazily:
    """NumPy as `Leaf.join` needs it, with nothing copied yet."""

    transpose = staticmethod(np.transpose)
    expand_dims = staticmethod(np.expand_dims)
    stack = staticmethod(_Stack)


def _copied(x: np.ndarray | _Stack, dtype: Any, huge: bool = False) -> np.ndarray:
    """An array in `dtype` that nobody will change, moved and cast in one pass.

    What is so already, in the pages of a mapped file perhaps, stays where it is.
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
    """`map(function, items)`, one item ahead: memory is new to the process, and slow to get."""
    with ThreadPoolExecutor(2) as pool:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def tensors_of(config: ModelConfig, params: Params) -> Tensors:
    """The tensors of a tree in memory, for training or for serving."""
    params = apart(config, params) if is_serving(params) else unstack(params)
    return {
        path: Tensor(x.shape, np.dtype(x.dtype), functools.partial(np.asarray, x))
        for path, x in flatten_dict(params, sep="/").items()
    }


def zeros(shape: tuple[int, ...]) -> Tensor:
    """A parameter that the files lack."""
    return Tensor(shape, np.dtype(np.float32), lambda: np.zeros(shape, np.float32))


def account(
    source: Path | str, unused: list[str], missing: list[str], allow: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Unused and missing names, if every one of them matches a regular expression in `allow`.

    Raises:
      ValueError: names the first that is not allowed, and how many there are.
    """
    for kind, names, cure in (
        ("has no place in this model", unused, "to leave it out"),
        ("is missing", missing, "to start it from zeros"),
    ):
        wrong = [name for name in names if not any(re.fullmatch(p, name) for p in allow)]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise ValueError(
                f"{source}: {wrong[0]}{more} {kind}; {cure}, allow={wrong[0]!r} (a pattern)"
            )
    return tuple(unused), tuple(missing)


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name `path` when all is written.

    Raises:
      FileExistsError: `path` exists.
    """
    path = path.absolute()
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another folder or delete it")
    temporary = path.with_name(f"{path.name}.incomplete-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
