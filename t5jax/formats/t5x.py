"""T5X's format: a msgpack file of the tree, beside one zarr array a parameter.

    FOLDER/checkpoint                            msgpack; arrays, or where to find them
    FOLDER/target.encoder.….kernel/              zarr: gzip, float32 or bfloat16
    FOLDER/*.gin, or one folder up               where there is one: the network's fields

Layers are apart (`encoder/layers_0/…`, T5X's `t5`) or stacked on the second axis (`encoder/encoder/
…`, its `scalable_t5`). A family's table (`T5XTable`) says where each array lies, and reads the
architecture off the shapes and the gin files.
"""

from __future__ import annotations

import ast
import functools
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

import jax.numpy as jnp
import numpy as np
import tensorstore
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from pydantic import Field

from t5jax.formats.checkpoint import (
    About,
    Checkpoint,
    SingleTensors,
    complete_folder,
    completed,
)
from t5jax.model.family import families, family_of
from t5jax.model.parameters import paths
from t5jax.model.tensors import Tensor, TensorRow, Tensors
from t5jax.schema import Schema, check
from t5jax.text_files import read_text

FILE = "checkpoint"
GIN_FILE = "model.gin"
VERSION = 3
# T5X writes chunks of about this size, and so do we.
CHUNK_BYTES = 128 * 2**20
# gzip's largest compression ratio (Deutsch 1996, RFC 1951, section 3.2.5: 258 of two bits).
_GZIP = 1032


DType = Literal["float32", "bfloat16", "float16", "float64"]


class T5XTable(Protocol):
    """The names that a family's table of this format, a module, must have.

    Attributes:
      Gin: the bindings of gin files that are read, a `Schema`.
    """

    Gin: type[Schema]

    def rows(self, config: Any, *, stacked: bool) -> Iterable[TensorRow]:
        """Where every parameter lies."""

    def read_config(
        self,
        folder: Path,
        target: Tensors,
        stacked: bool,
        bindings: Iterable[tuple[Path, str, Any]],
        changes: Mapping[str, Any],
    ) -> tuple[Any, dict[str, str]]:
        """The configuration of arrays and gin bindings with `changes`, and which fields it assumes.

        Raises:
          ValueError: they are of another family, or not supported.
        """

    def check_writable(self, config: Any, stacked: bool | None) -> bool:
        """Whether layers are written stacked; ValueError where T5X has no such model."""

    def gin_text(self, config: Any) -> str:
        """The gin file of a checkpoint that is written."""


class Store(Schema):
    """Where an array lies."""

    path: str | None = None


class Metadata(Schema):
    """The shape of an array, once more in its own `.zarray`."""

    shape: list[Annotated[int, Field(ge=1)]]


class ArraySpec(Schema):
    """TensorStore's description of one array, in the msgpack file."""

    dtype: DType
    metadata: Metadata
    kvstore: Store = Store()
    path: str | None = None


class Optimizer(Schema):
    """The part of `optimizer` that is read: its target, which is the parameters."""

    target: dict[str, Any]


class Tree(Schema):
    """The msgpack file."""

    optimizer: Optimizer


# reading


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint of this format, or a folder of several."""
    return _folder(path) is not None


def _folder(path: Path) -> Path | None:
    if path.is_file() and path.name == FILE:
        path = path.parent
    if (path / FILE).is_file():
        return path
    found = [p for p in path.glob("checkpoint_*") if p.name.split("_")[1].isdigit()]
    complete = [p for p in found if (p / FILE).is_file()]
    return max(complete, key=lambda p: int(p.name.split("_")[1]), default=None)


def read(path: Path, *, allow: tuple[str, ...] = (), **changes: Any) -> SingleTensors:
    """Opens a checkpoint, or the latest of a folder of several; tensors are read when asked for.

    Args:
      path: the folder, or its msgpack file.
      allow: regular expressions of names that may be unused or missing.
      changes: fields of the configuration that are to be otherwise than shapes and gin file say.

    Raises:
      ValueError: something is damaged, missing, or not supported.
    """
    folder = _folder(path)
    if folder is None:
        raise FileNotFoundError(f"{path} holds no T5X checkpoint")
    target = _read_target(folder)
    stacked = any(name.startswith("encoder/encoder/") for name in target)
    table, config, assumed = _architecture(folder, target, stacked, changes)
    shapes, tensors, used = paths(config), {}, set()
    recent = _Recent(target)
    for row in table.rows(config, stacked=stacked):
        if (name := row.names[0]) in target:
            used.add(name)
            tensors[row.path] = _reading(folder, row, target[name], shapes[row.path], recent)
    return completed(About(config, assumed=assumed), tensors, folder, set(target) - used, allow)


def _architecture(
    folder: Path, target: Tensors, stacked: bool, changes: Mapping[str, Any]
) -> tuple[T5XTable, Any, dict[str, str]]:
    """The table of the first family that the arrays are of, the configuration, what it assumes.

    Raises:
      ValueError: the first family's reason, where they are of none.
    """
    reasons = []
    for family in families():
        if "t5x" not in family.formats:
            continue
        table: T5XTable = family.table("t5x")
        try:
            bindings = _bindings(folder, table.Gin)
            return table, *table.read_config(folder, target, stacked, bindings, changes)
        except ValueError as error:
            reasons.append(error)
    raise reasons[0] if reasons else ValueError("no family has a tensor table for format 't5x'")


def _read_target(folder: Path) -> dict[str, Tensor]:
    """The parameters by their path, unread."""
    file = folder / FILE
    try:
        tree = serialization.msgpack_restore(file.read_bytes())
        tree = check(Tree, tree, file).optimizer.target
        target = flatten_dict(tree, sep="/", is_leaf=lambda _, x: "driver" in x)
    except Exception as error:  # msgpack's own exceptions, and whatever broken bytes lead to
        raise ValueError(f"{file} is damaged, or not T5X's ({error!r})") from error
    return {name: _tensor(folder, name, leaf) for name, leaf in target.items()}


def _tensor(folder: Path, name: str, leaf: Any) -> Tensor:
    file = folder / FILE
    if isinstance(leaf, np.ndarray):
        if leaf.dtype.name not in get_args(DType):
            raise ValueError(f"{file}: {name} is {leaf.dtype}; floating point is expected")
        return Tensor(leaf.shape, leaf.dtype, lambda: leaf)
    spec = check(ArraySpec, leaf, f"{file}: {name}")
    # On GCS `path` is a field of the spec, on a file system one of `kvstore`.
    place = spec.path or spec.kvstore.path
    if not place:
        raise ValueError(f"{file}: {name} says not where its array lies")
    shape, dtype = tuple(spec.metadata.shape), jnp.dtype(spec.dtype)
    return Tensor(shape, dtype, functools.partial(_read_array, folder / place, name, shape))


def _read_array(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": str(path)},
        # Otherwise a chunk that is not there reads as zeros.
        "fill_missing_data_reads": False,
    }
    try:
        array = tensorstore.open(spec, open=True, read=True).result()
        if array.shape != shape:
            raise ValueError(f"it has shape {array.shape}, the checkpoint says {shape}")
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        # A chunk is made whole, however little of it the array has.
        chunk = [n or 1 for n in array.chunk_layout.read_chunk.shape or ()]
        entries = max(math.prod(shape), math.prod(chunk))
        size = entries * array.dtype.numpy_dtype.itemsize
        if size > stored * _GZIP:
            raise ValueError(f"{stored} bytes there cannot be an array of {size}")
        return array.read().result()
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} ({name}) is missing or damaged: {cause}") from error


class _Recent:
    """The four stacked arrays read last: layers of one array are read one after the other."""

    def __init__(self, target: Mapping[str, Tensor]) -> None:
        self._lock = threading.Lock()
        self._read = functools.lru_cache(maxsize=4)(lambda name: target[name].read())

    def read(self, name: str) -> np.ndarray:
        with self._lock:
            return self._read(name)


def _reading(
    folder: Path, row: TensorRow, theirs: Tensor, shape: tuple[int, ...], recent: _Recent
) -> Tensor:
    """One of theirs, or a layer of it, in our shape."""
    name, layer = row.names[0], row.layer
    own = theirs.shape if layer is None else theirs.shape[:1] + theirs.shape[2:]
    # Heads and head_dim may be joined; nothing else may differ.
    if own != shape and not (len(shape) == 3 and own in (_joined(shape, 0), _joined(shape, 1))):
        raise ValueError(f"{folder}: {name} has shape {theirs.shape}; a layer should be {shape}")

    def read() -> np.ndarray:
        array = theirs.read() if layer is None else recent.read(name)[:, layer]
        return row.transform.read(array, shape)

    return Tensor(shape, theirs.dtype, read)


def _joined(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _bindings(folder: Path, schema: type[Schema]) -> Iterator[tuple[Path, str, Any]]:
    """File, name and value of every binding of a name in `schema`, in gin files beside or above."""
    for file in sorted([*folder.glob("*.gin"), *folder.parent.glob("*.gin")]):
        bindings = re.findall(
            r"^[ \t]*(?:[\w./]+\.)?(\w+)[ \t]*=[ \t]*([^#\n]+)", read_text(file), re.M
        )
        for name, value in bindings:
            if name not in schema.model_fields:
                continue
            try:
                literal = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue  # a reference to another binding, or nonsense
            check(schema, {name: literal}, file)
            yield file, name, literal


# writing


def write(
    path: Path,
    checkpoint: Checkpoint,
    *,
    dtype: Any = None,
    stacked: bool | None = None,
    track: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> None:
    """Writes a checkpoint that T5X reads; it is complete or not there.

    It holds parameters and step 0, no optimizer state, and a gin file of the network's fields.

    Args:
      path: the folder, which must not exist yet.
      checkpoint: what to write.
      dtype: of the written tensors; None: as they are.
      stacked: the layout of `scalable_t5`; None: as the table says.
      track: gets the tensors' names and gives them back, one before each is written.

    Raises:
      FileExistsError: `path` exists.
      ValueError: T5X has no such model.
    """
    config = checkpoint.about.config
    table: T5XTable = family_of(config).table("t5x")
    stacked = table.check_writable(config, stacked)
    parts: dict[str, list[TensorRow]] = {}
    for row in table.rows(config, stacked=stacked):
        parts.setdefault(row.names[0], []).append(row)
    with complete_folder(path) as folder:
        specs = {}
        for name in track(parts):
            arrays = [
                row.transform.write(checkpoint.tensors[row.path].read()) for row in parts[name]
            ]
            in_layers = parts[name][0].layer is not None
            array = np.stack(arrays, 1) if in_layers else arrays[0]
            array = array.astype(dtype or array.dtype, copy=False)
            specs[name] = _write_array(folder, f"target.{name.replace('/', '.')}", array)
        tree = {
            "version": VERSION,
            "optimizer": {
                "target": unflatten_dict(specs, sep="/"),
                # No empty `param_states`: T5X takes one for an array, and stops.
                "state": {"step": np.int32(0)},
            },
        }
        (folder / FILE).write_bytes(serialization.msgpack_serialize(tree))
        (folder / GIN_FILE).write_text(table.gin_text(config), encoding="utf-8")


def _write_array(folder: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    rows = max(1, CHUNK_BYTES // max(1, array.nbytes // len(array)))
    spec = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "file", "path": f"{name}/"},
        "metadata": {
            "chunks": [min(rows, len(array)), *array.shape[1:]],
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(array.shape),
        },
    }
    place = {"driver": "file", "path": str(folder / name)}
    tensorstore.open(spec | {"kvstore": place}, create=True).result().write(array).result()
    return spec
