"""T5X's format: a msgpack file of the tree, beside one zarr array a parameter.

    FOLDER/checkpoint                            msgpack; arrays, or where to find them
    FOLDER/target.encoder.….kernel/              zarr: gzip, float32 or bfloat16
    FOLDER/*.gin, or one folder up               where there is one: the network's fields

Layers are apart (`encoder/layers_0/…`, T5X's `t5`) or stacked on the second axis (`encoder/encoder/
…`, its `scalable_t5`). The architecture is read off the shapes. A gin file beside the checkpoint,
or the caller, says what shapes cannot tell: the activation of a gated MLP, and LongT5's blocks.
"""

from __future__ import annotations

import ast
import functools
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
import tensorstore
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from pydantic import Field

from t5jax.formats.checkpoint import (
    Checkpoint,
    Tensor,
    account,
    complete_folder,
    zeros,
)
from t5jax.knobs import short
from t5jax.model.parameters import paths
from t5jax.model.t5.config import T5Config
from t5jax.schema import Schema, check
from t5jax.text_files import read_text

FILE = "checkpoint"
GIN_FILE = "model.gin"
VERSION = 3
# T5X writes chunks of about this size, and so do we.
CHUNK_BYTES = 128 * 2**20
# Bytes that gzip makes of one at most (Deutsch 1996, RFC 1951, section 3.2.5: 258 of two bits).
_GZIP = 1032

_ENCODER = {
    "pre_attention_layer_norm/scale": "pre_attention_layer_norm/scale",
    **{f"attention/{k}/kernel": f"self_attention/{k}" for k in ("query", "key", "value", "out")},
    # LongT5's, which flaxformer numbers rather than names.
    "attention/T5LayerNorm_0/scale": "self_attention/global_input_layer_norm/scale",
}
_DECODER = {
    "pre_self_attention_layer_norm/scale": "pre_self_attention_layer_norm/scale",
    "pre_cross_attention_layer_norm/scale": "pre_cross_attention_layer_norm/scale",
    **{
        f"{module}/{k}/kernel": f"{module}/{k}"
        for module in ("self_attention", "encoder_decoder_attention")
        for k in ("query", "key", "value", "out")
    },
}
_BOTH = {
    "pre_mlp_layer_norm/scale": "pre_mlp_layer_norm/scale",
    **{f"mlp/{k}/kernel": f"mlp/{k}" for k in ("wi", "wi_0", "wi_1", "wo")},
}
_BIAS = "relpos_bias/rel_embedding"
_SIDE_BIAS = "encoder/side_relpos_bias/rel_embedding"


DType = Literal["float32", "bfloat16", "float16", "float64"]


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


class Gin(Schema):
    """Bindings of gin files that say what shapes do not."""

    mlp_activations: tuple[str, ...] | list[str] = ()
    local_radius: int | None = None
    tokens_per_block: int | None = None
    dropout_rate: float | None = None


def rows(config: T5Config, *, stacked: bool) -> Iterator[tuple[str, str, int | None]]:
    """Their path, our path with layers apart, the layer where theirs is stacked.

    The shapes are ours, but for heads and head_dim, which theirs may have joined.
    """
    yield "token_embedder/embedding", "token_embedder/embedding", None
    if not (config.tie_word_embeddings or config.encoder_only):
        yield "decoder/logits_dense/kernel", "head/kernel", None
    if config.global_tokens:
        yield _SIDE_BIAS, "encoder/global_relpos_bias/rel_embedding", None
    depths = {"encoder": config.num_layers, "decoder": config.num_decoder_layers}
    known = set(paths(config))
    for name, depth in depths.items():
        if depth:
            yield f"{name}/{name}_norm/scale", f"{name}/norm/scale", None
        if f"{name}/{_BIAS}" in known:
            yield f"{name}/{_BIAS}", f"{name}/{_BIAS}", None
        table = (_ENCODER if name == "encoder" else _DECODER) | _BOTH | {_BIAS: _BIAS}
        for i in range(depth):
            for theirs, ours in table.items():
                path = f"{name}/layers_{i}/{ours}"
                if path not in known:
                    continue
                if stacked:
                    yield f"{name}/{name}/{theirs}", path, i
                else:
                    yield f"{name}/layers_{i}/{theirs}", path, None


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


def read(path: Path, *, allow: tuple[str, ...] = (), **changes: Any) -> Checkpoint:
    """Opens a checkpoint, or the latest of a folder of several; tensors are read when asked for.

    Args:
      path: the folder, or its msgpack file.
      allow: regular expressions of names that may be unused or missing.
      changes: fields of `T5Config` that are to be otherwise than shapes and gin file say.

    Raises:
      ValueError: something is damaged, missing, or not supported.
    """
    folder = _folder(path)
    if folder is None:
        raise FileNotFoundError(f"{path} holds no T5X checkpoint")
    target = _read_target(folder)
    stacked = any(name.startswith("encoder/encoder/") for name in target)
    said = _gin(folder)
    config = config_from(target, stacked, folder)
    if config.global_tokens:
        said.pop("encoder_attention_type", None)
    told = {**said, **changes}
    assumed: dict[str, str] = {}
    if "feed_forward_proj" not in told:
        assumed["feed_forward_proj"] = config.feed_forward_proj
    if not said and not config.global_tokens and "encoder_attention_type" not in changes:
        assumed["encoder_attention_type"] = config.encoder_attention_type
    config = config.replace(**told)
    shapes, tensors, used = paths(config), {}, set()
    recent = _Recent(target)
    for theirs, ours, layer in rows(config, stacked=stacked):
        if theirs in target:
            used.add(theirs)
            tensors[ours] = _reading(folder, theirs, target[theirs], shapes[ours], layer, recent)
    missing = {name: shape for name, shape in shapes.items() if name not in tensors}
    unused_, missing_ = account(folder, sorted(set(target) - used), sorted(missing), allow)
    return Checkpoint(
        config=config,
        tensors=tensors | {name: zeros(shape) for name, shape in missing.items()},
        assumed=assumed,
        unused=unused_,
        missing=missing_,
    )


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
    # On Google's cloud the path stands beside the store, on a file system in it.
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
    """The stacked arrays read last: their layers are asked for one after the other.

    Four: as many parameters as a module has.
    """

    def __init__(self, target: Mapping[str, Tensor]) -> None:
        self._lock = threading.Lock()
        self._read = functools.lru_cache(maxsize=4)(lambda name: target[name].read())

    def read(self, name: str) -> np.ndarray:
        with self._lock:
            return self._read(name)


def _reading(
    folder: Path,
    name: str,
    theirs: Tensor,
    shape: tuple[int, ...],
    layer: int | None,
    recent: _Recent,
) -> Tensor:
    """One of theirs, or a layer of it, in our shape."""
    own = theirs.shape if layer is None else theirs.shape[:1] + theirs.shape[2:]
    # Heads and head_dim may be joined; nothing else may differ.
    if own != shape and not (len(shape) == 3 and own in (_joined(shape, 0), _joined(shape, 1))):
        raise ValueError(f"{folder}: {name} has shape {theirs.shape}; a layer should be {shape}")

    def read() -> np.ndarray:
        array = theirs.read() if layer is None else recent.read(name)[:, layer]
        return array.reshape(shape)

    return Tensor(shape, theirs.dtype, read)


def _joined(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def config_from(target: Mapping[str, Tensor], stacked: bool, folder: Path) -> T5Config:
    """The architecture that the shapes show.

    Heads are the rows of the bias table. A head of its own means no scaling of the decoder's
    output, a tied one means T5X's scaling.
    """

    def shape(name: str, *ranks: int) -> tuple[int, ...]:
        if name not in target:
            raise ValueError(f"{folder}: {name} is missing; is this a T5 of T5X?")
        found = target[name].shape
        if len(found) not in ranks or 0 in found:
            raise ValueError(f"{folder}: {name} has shape {found}; is this a T5 of T5X?")
        return found

    def depth(stack: str) -> int:
        if stacked:
            return shape(f"{stack}/{stack}/pre_mlp_layer_norm/scale", 2)[1]
        return len({n.split("/")[1] for n in target if n.startswith(f"{stack}/layers_")})

    layers = "encoder/encoder" if stacked else "encoder/layers_0"
    vocab_size, d_model = shape("token_embedder/embedding", 2)
    per_layer = f"{layers}/{_BIAS}" in target
    bias = shape(f"{layers}/{_BIAS}", 2, 3) if per_layer else shape(f"encoder/{_BIAS}", 2)
    query = shape(f"{layers}/attention/query/kernel", 2, 3, 4)
    width = math.prod(query) // d_model // (depth("encoder") if stacked else 1)
    gated = f"{layers}/mlp/wi_0/kernel" in target
    encoder_only = not any(name.startswith("decoder/") for name in target)
    tied = "decoder/logits_dense/kernel" not in target
    return T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=width // bias[0],
        d_ff=shape(f"{layers}/mlp/wo/kernel", 2, 3)[0],
        num_heads=bias[0],
        num_layers=depth("encoder"),
        num_decoder_layers=0 if encoder_only else depth("decoder"),
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=tied,
        scale_decoder_outputs=tied and not encoder_only,
        relative_bias="per_layer" if per_layer else "shared",
        relative_attention_num_buckets=bias[-1],
        encoder_attention_type="transient-global" if _SIDE_BIAS in target else "full",
    )


_ACTIVATIONS = {
    ("relu",): "relu",
    # Flax's gelu, and so T5X's, is the tanh form. It has no exact one.
    ("gelu",): "gelu_new",
    ("silu",): "silu",
    ("swish",): "silu",
    ("relu", "linear"): "gated-relu",
    ("gelu", "linear"): "gated-gelu",
    ("silu", "linear"): "gated-silu",
    ("swish", "linear"): "gated-silu",
}


# LongT5's blocks; where there are no global tokens, nothing but these tells it from T5.
_LONGT5 = {"local_radius": "local_radius", "tokens_per_block": "global_block_size"}


def _gin(folder: Path) -> dict[str, Any]:
    """What the gin files beside a checkpoint, or one folder up, say that its shapes do not.

    Raises:
      ValueError: activations that are not supported.
    """
    found: dict[str, Any] = {}
    for file in sorted([*folder.glob("*.gin"), *folder.parent.glob("*.gin")]):
        bindings = re.findall(
            r"^[ \t]*(?:[\w./]+\.)?(\w+)[ \t]*=[ \t]*([^#\n]+)", read_text(file), re.M
        )
        for name, value in bindings:
            if name not in Gin.model_fields:
                continue
            try:
                literal = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue  # a reference to another binding, or nonsense
            said = check(Gin, {name: literal}, file)
            if name == "mlp_activations":
                activations = tuple(said.mlp_activations)
                if activations not in _ACTIVATIONS:
                    raise ValueError(
                        f"{file}: mlp_activations={short(literal)} is not supported; supported: "
                        f"{', '.join(map(str, _ACTIVATIONS))}"
                    )
                found.setdefault("feed_forward_proj", _ACTIVATIONS[activations])
            elif name in _LONGT5:
                found.setdefault(_LONGT5[name], literal)
                found.setdefault("encoder_attention_type", "local")
            else:
                found.setdefault("dropout", literal)
    return found


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
      stacked: the layout of `scalable_t5`; None: where layers have a bias table each, for no other
        network of T5X's gives them one.
      track: gets the tensors' names and gives them back, one before each is written.

    Raises:
      FileExistsError: `path` exists.
      ValueError: T5X has no such model.
    """
    config = checkpoint.config
    per_layer = config.relative_bias == "per_layer"
    stacked = per_layer if stacked is None else stacked
    if config.tie_word_embeddings != config.scale_decoder_outputs and not config.encoder_only:
        raise ValueError(
            "T5X scales the decoder's output where, and only where, the head is tied; this model "
            f"has tie_word_embeddings={config.tie_word_embeddings} and "
            f"scale_decoder_outputs={config.scale_decoder_outputs}"
        )
    if stacked and not per_layer:
        raise ValueError("T5X's stacked layers have a bias table each; this model shares one")
    parts: dict[str, list[str]] = {}
    for theirs, ours, _ in rows(config, stacked=stacked):
        parts.setdefault(theirs, []).append(ours)
    in_layers = {theirs for theirs, _, layer in rows(config, stacked=stacked) if layer is not None}
    with complete_folder(path) as folder:
        specs = {}
        for theirs in track(parts):
            arrays = [
                joined_heads(theirs, checkpoint.tensors[p].read(), stacked) for p in parts[theirs]
            ]
            array = np.stack(arrays, 1) if theirs in in_layers else arrays[0]
            array = array.astype(dtype or array.dtype, copy=False)
            specs[theirs] = _write_array(folder, f"target.{theirs.replace('/', '.')}", array)
        tree = {
            "version": VERSION,
            "optimizer": {
                "target": unflatten_dict(specs, sep="/"),
                # No empty `param_states`: T5X takes one for an array, and stops.
                "state": {"step": np.int32(0)},
            },
        }
        (folder / FILE).write_bytes(serialization.msgpack_serialize(tree))
        (folder / GIN_FILE).write_text(_gin_text(config), encoding="utf-8")


def network_fields(config: T5Config) -> dict[str, Any]:
    """The network under the names of T5X's T5Config."""
    names = [k for k, v in _ACTIVATIONS.items() if v == config.feed_forward_proj]
    if not names:
        raise ValueError(
            f"T5X has no feed_forward_proj={config.feed_forward_proj!r}; it has "
            f"{', '.join(dict.fromkeys(_ACTIVATIONS.values()))}"
        )
    activations = names[0]
    return {
        "vocab_size": config.vocab_size,
        "emb_dim": config.d_model,
        "num_heads": config.num_heads,
        "num_encoder_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "head_dim": config.d_kv,
        "mlp_dim": config.d_ff,
        "mlp_activations": activations,
        "dropout_rate": config.dropout,
        "logits_via_embedding": config.tie_word_embeddings,
    }


def _gin_text(config: T5Config) -> str:
    """What shapes do not tell is read from here."""
    fields = network_fields(config)
    lines = ["network.T5Config:", *(f"  {name} = {value!r}" for name, value in fields.items())]
    if config.long:
        lines += ["", "long_attention.SelfAttention:"]
        lines += [f"  {theirs} = {getattr(config, ours)}" for theirs, ours in _LONGT5.items()]
    return "\n".join([*lines, ""])


def joined_heads(name: str, array: np.ndarray, stacked: bool) -> np.ndarray:
    """T5X's `t5` joins heads and head_dim, its `scalable_t5` does not."""
    if stacked or array.ndim != 3:
        return array
    return array.reshape(_joined(array.shape, 0 if "/out/" in name else 1))


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
