"""The files in which Hugging Face folders keep tensors: safetensors, torch's, flax's.

All three give the same: tensors by torch's names, unread. One file, or shards with an index.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from t5jax.knobs import short
from t5jax.model.tensors import Tensor
from t5jax.schema import Schema, check, parse_json, read_json


class Index(Schema):
    """Of shards: which file holds which tensor."""

    weight_map: dict[str, str]


class Entry(Schema):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]
    data_offsets: Annotated[list[int], Field(min_length=2, max_length=2)]


# What a file of torch's may hold its weights under, where they are not all that it holds.
_NESTED = ("state_dict", "model_state_dict", "model", "module")

_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_DTYPES = tuple(_SAFETENSORS_DTYPES.values())
_WANTED = f"tensors of {', '.join(_DTYPES)} are expected"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by torch's names, of the first kind of file that is there.

    Raises:
      FileNotFoundError: there is none, or a shard that the index names is missing.
      ValueError: a file is damaged, or torch is needed and not installed.
    """
    for name, read in _READERS.items():
        file, index = folder / name, folder / f"{name}.index.json"
        if file.is_file():
            return read(file)
        if index.is_file():
            return _read_shards(index, read)
    raise FileNotFoundError(f"{folder} holds no weights; looked for {', '.join(_READERS)}")


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    weight_map = read_json(index, Index).weight_map
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{index}: {short(shard)} must be the name of a file beside it")
        if not (index.parent / shard).is_file():
            raise FileNotFoundError(f"{index.parent / shard} is missing; {index.name} names it")
        tensors |= read(index.parent / shard)
    # Flax's index has slashes where torch has dots.
    lacking = sorted(name for name in weight_map if _torch_name(name) not in tensors)
    if lacking:
        raise ValueError(
            f"{index.parent / weight_map[lacking[0]]} lacks {lacking[0]}, which {index.name} "
            "places there; download it again"
        )
    return tensors


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="numpy"):
            pass  # it has checked that header and length are whole
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}); download it again") from error
    # The library copies each tensor; a map costs no memory of the process's own. The file: the
    # header's length, the header, the data.
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = parse_json(stream.read(length), file)
    header.pop("__metadata__", None)
    entries = check(dict[str, Entry], header, file)
    data = np.memmap(file, np.uint8, "r", offset=8 + length)

    def tensor(name: str, entry: Entry) -> Tensor:
        if entry.dtype not in _SAFETENSORS_DTYPES:
            raise ValueError(f"{file}: {name} is {entry.dtype}; {_WANTED}")
        dtype, begin = jnp.dtype(_SAFETENSORS_DTYPES[entry.dtype]), entry.data_offsets[0]
        shape = tuple(entry.shape)
        return Tensor(shape, dtype, lambda: np.ndarray(shape, dtype, data, begin))

    return {name: tensor(name, entry) for name, entry in entries.items()}


def write_safetensors(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays so that they begin at multiples of 64 bytes, as far as their sizes are such.

    On a CPU JAX works on memory that does where it lies, in the pages of the mapped file, and
    copies any other; the format itself promises 8.
    """
    # transformers refuses files that do not say which library's layout they have.
    metadata = {"format": "pt", "padding": ""}
    header: dict[str, Any] = {"__metadata__": metadata}
    names = {jnp.dtype(dtype): name for name, dtype in _SAFETENSORS_DTYPES.items()}
    end = 0
    # The library's own order: wide types first, then names.
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        begin, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": names[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    size = 8 + len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    save_file(dict(arrays), file, {**metadata, "padding": " " * (-size % 64)})


def _read_torch(file: Path) -> dict[str, Tensor]:
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise ValueError(
            f"{file} is read by torch, which is not installed: pip install torch, or convert it "
            "to safetensors"
        ) from None
    try:
        try:
            # Weights only: an unrestricted unpickling would run any code that the file holds.
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files older than torch 1.6 cannot be mapped
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own exceptions, and whatever broken bytes lead to
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} is damaged, or holds more than weights: {cause}") from error

    def tensor(name: str, value: Any) -> Tensor:
        kind = f"a {type(value).__name__}"
        if torch.is_tensor(value):
            kind = str(value.dtype).removeprefix("torch.")
            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                kind = f"a sparse, quantized or empty tensor of {kind}"
        if kind not in _DTYPES:
            raise ValueError(f"{file}: {name} is {kind}; {_WANTED}")

        def read() -> np.ndarray:
            plain = value.detach()
            if value.dtype == torch.bfloat16:
                return plain.view(torch.uint16).numpy().view(jnp.bfloat16)
            return plain.numpy()

        return Tensor(tuple(value.shape), jnp.dtype(kind), read)

    return {name: tensor(name, value) for name, value in _state_dict(file, state).items()}


def _state_dict(file: Path, content: Any) -> dict[str, Any]:
    """The weights of a file of torch's, which may lie under one of the usual names."""
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ValueError(
            f"{file} holds {short(type(content).__name__)}, no state dict; save it with "
            "torch.save(model.state_dict(), …)"
        )
    return dict(content)


def _read_msgpack(file: Path) -> dict[str, Tensor]:
    try:
        tree = serialization.msgpack_restore(file.read_bytes())
        flat = flatten_dict(check(dict[str, Any], tree, file), sep="/")
    except Exception as error:  # msgpack's own exceptions, and whatever broken bytes lead to
        raise ValueError(f"{file} is damaged ({error!r}); download it again") from error

    def tensor(name: str, value: Any) -> Tensor:
        if not isinstance(value, np.ndarray) or value.dtype.name not in _DTYPES:
            kind = getattr(value, "dtype", f"a {type(value).__name__}")
            raise ValueError(f"{file}: {name} is {kind}; {_WANTED}")
        # Flax keeps kernels [in, out], torch [out, in].
        value = value.T if name.endswith("/kernel") else value
        return Tensor(value.shape, value.dtype, lambda: value)

    return {_torch_name(name): tensor(name, x) for name, x in flat.items()}


def _torch_name(name: str) -> str:
    if "/" not in name:
        return name
    parts = name.split("/")
    if parts[-1] in ("kernel", "embedding"):
        parts[-1] = "weight"
    return ".".join(parts)


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "model.safetensors": _read_safetensors,
    "pytorch_model.bin": _read_torch,
    "flax_model.msgpack": _read_msgpack,
}
