"""Hugging Face's format: configuration, weights and tokenizer in one folder, read and written.

One table says where each tensor lies in their layout and in ours; both directions follow it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from t5jax.formats import generation_defaults
from t5jax.formats.checkpoint import (
    Checkpoint,
    Tensor,
    Tensors,
    account,
    complete_folder,
    zeros,
)
from t5jax.formats.huggingface_config import (
    CONFIG_FILE,
    EMBEDDINGS,
    GENERATION_FILE,
    HEAD,
    config_fields,
    read_config,
    read_json_files,
    same,
)
from t5jax.formats.tensor_files import read_tensors, write_safetensors
from t5jax.model.parameters import paths
from t5jax.model.t5.config import T5Config
from t5jax.vocabulary import Vocabulary, from_huggingface, write_huggingface

WEIGHTS = "model.safetensors"
SHARD_BYTES = 5 * 10**9

# A table that transformers 2 and 3 wrote and nothing ever used: cross-attention has no positions.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)


class Transform(NamedTuple):
    """One tensor's way from their layout to ours, and back. Views, where NumPy can."""

    read: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]  # theirs, our shape -> ours
    write: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda x, shape: x.reshape(shape), lambda x: x)
# Their linear layers are [out, in]; ours [in, out], with heads and head_dim apart.
TRANSPOSED = Transform(lambda x, shape: x.T.reshape(shape), lambda x: x.T)
INTO_HEADS = Transform(TRANSPOSED.read, lambda x: x.reshape(x.shape[0], -1).T)
OUT_OF_HEADS = Transform(TRANSPOSED.read, lambda x: x.reshape(-1, x.shape[-1]).T)

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}


def rows(config: T5Config) -> Iterator[tuple[str, str, Transform]]:
    """Their key, our path with layers apart, the transform: the table of the format."""
    yield EMBEDDINGS[0], "token_embedder/embedding", SAME
    if not (config.tie_word_embeddings or config.encoder_only):
        yield HEAD, "head/kernel", TRANSPOSED
    # LongT5 names an encoder's attention by its kind.
    own = {"full": "", "local": "Local", "transient-global": "TransientGlobal"}
    encoder = f"{own[config.encoder_attention_type]}SelfAttention"
    stacks = {
        "encoder": (config.num_layers, {encoder: ("attention", "self_attention")}),
        "decoder": (
            config.num_decoder_layers,
            {
                "SelfAttention": ("self_attention", "self_attention"),
                "EncDecAttention": ("cross_attention", "encoder_decoder_attention"),
            },
        ),
    }
    for stack_name, (depth, attentions) in stacks.items():
        if depth:
            yield f"{stack_name}.final_layer_norm.weight", f"{stack_name}/norm/scale", SAME
        for i in range(depth):
            theirs, ours = f"{stack_name}.block.{i}.layer", f"{stack_name}/layers_{i}"
            for j, (name, (norm, module)) in enumerate(attentions.items()):
                yield f"{theirs}.{j}.layer_norm.weight", f"{ours}/pre_{norm}_layer_norm/scale", SAME
                for letter, kernel in _ATTENTION.items():
                    transform = OUT_OF_HEADS if letter == "o" else INTO_HEADS
                    yield (
                        f"{theirs}.{j}.{name}.{letter}.weight",
                        f"{ours}/{module}/{kernel}",
                        transform,
                    )
            per_layer = config.relative_bias == "per_layer"
            attention = f"{theirs}.0.{next(iter(attentions))}"
            if per_layer or i == 0:
                owner = ours if per_layer else stack_name
                key = f"{attention}.relative_attention_bias.weight"
                yield key, f"{owner}/relpos_bias/rel_embedding", TRANSPOSED
            if stack_name == "encoder" and config.global_tokens:
                path = f"{ours}/self_attention/global_input_layer_norm/scale"
                yield f"{attention}.global_input_layer_norm.weight", path, SAME
                if i == 0:
                    key = f"{attention}.global_relative_attention_bias.weight"
                    yield key, "encoder/global_relpos_bias/rel_embedding", TRANSPOSED
            j = len(attentions)
            yield f"{theirs}.{j}.layer_norm.weight", f"{ours}/pre_mlp_layer_norm/scale", SAME
            for kernel in ("wi_0", "wi_1", "wo") if config.gated else ("wi", "wo"):
                key = f"{theirs}.{j}.DenseReluDense.{kernel}.weight"
                yield key, f"{ours}/mlp/{kernel}", TRANSPOSED


# reading


def detect(path: Path) -> bool:
    """Whether `path` is a folder of this format."""
    return (path / CONFIG_FILE).is_file()


def read(path: Path, *, allow: tuple[str, ...] = (), **changes: Any) -> Checkpoint:
    """Opens a folder; its tensors are read when they are asked for.

    Args:
      path: the folder.
      allow: regular expressions of names that may be unused or missing.
      changes: fields of `T5Config` that are to be otherwise than the folder says.

    Raises:
      ValueError: something is damaged, missing, or not supported.
    """
    content, generation = read_json_files(path)
    weights = read_tensors(path)
    config = read_config(path, content, weights, generation).replace(**changes)
    tensors, used = from_weights(config, weights, path)
    copies = check_copies(path, config, weights)
    unused = sorted(set(weights) - used - copies - set(UNUSED))
    missing = {name: shape for name, shape in paths(config).items() if name not in tensors}
    unused_, missing_ = account(path, unused, sorted(missing), allow)
    return Checkpoint(
        config=config,
        tensors=tensors | {name: zeros(shape) for name, shape in missing.items()},
        vocabulary=_read_vocabulary(path, config),
        generation=generation,
        unused=unused_,
        missing=missing_,
    )


def from_weights(
    config: T5Config, weights: Mapping[str, Tensor], source: Path | str = "the model"
) -> tuple[dict[str, Tensor], set[str]]:
    """Their tensors by name -> ours by path, those that are there; and the names used."""
    shapes, tensors, used = paths(config), {}, set()
    for key, path, transform in rows(config):
        name = key
        if key == EMBEDDINGS[0]:
            name = next((n for n in EMBEDDINGS if n in weights), key)
        if name not in weights:
            continue
        used.add(name)
        tensors[path] = _reading(name, weights[name], shapes[path], transform, source)
    return tensors, used


def check_copies(source: Path, config: T5Config, weights: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that are copies of another: the embedding's, a tied head, a shared bias.

    Raises:
      ValueError: one of them differs from what it would be a copy of.
    """
    first = next((name for name in EMBEDDINGS if name in weights), EMBEDDINGS[0])
    originals = {name: first for name in EMBEDDINGS}
    if config.tie_word_embeddings:
        originals[HEAD] = first
    if config.relative_bias == "shared":
        for name in weights:
            if name.endswith("relative_attention_bias.weight"):
                originals[name] = re.sub(r"\.block\.\d+\.", ".block.0.", name, count=1)
    found = set()
    for name, original in originals.items():
        if name == original or name not in weights or original not in weights:
            continue
        if not same(weights[name], weights[original]):
            raise ValueError(
                f"{source}: {name} differs from {original}; only models in which they are one "
                "are supported"
            )
        found.add(name)
    return found


def _reading(
    name: str, theirs: Tensor, shape: tuple[int, ...], transform: Transform, source: Path | str
) -> Tensor:
    # An array of this shape that takes no memory: every entry is the same one.
    expected = transform.write(np.broadcast_to(np.float32(0), shape)).shape
    if theirs.shape != expected:
        raise ValueError(
            f"{source}: {name} has shape {theirs.shape}; the configuration asks for {expected}"
        )
    return Tensor(shape, theirs.dtype, lambda: transform.read(theirs.read(), shape))


def _read_vocabulary(folder: Path, config: T5Config) -> Vocabulary | None:
    try:
        # A ByT5 may come without any tokenizer file: its 384 rows are 3 + 256 bytes + sentinels.
        return from_huggingface(folder, byte_level=config.vocab_size == 384)
    except FileNotFoundError:
        return None


# writing


def to_weights(config: T5Config, tensors: Tensors) -> dict[str, Tensor]:
    """Our tensors by path -> theirs by name."""

    def writing(ours: Tensor, transform: Transform) -> Tensor:
        shape = transform.write(np.broadcast_to(np.float32(0), ours.shape)).shape
        return Tensor(shape, ours.dtype, lambda: np.ascontiguousarray(transform.write(ours.read())))

    return {key: writing(tensors[path], transform) for key, path, transform in rows(config)}


def write(
    path: Path,
    checkpoint: Checkpoint,
    *,
    dtype: Any = None,
    shard_bytes: int = SHARD_BYTES,
    track: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> None:
    """Writes a folder that transformers reads; it is complete or not there.

    Args:
      path: the folder, which must not exist yet.
      checkpoint: what to write.
      dtype: of the written tensors; None: as they are.
      shard_bytes: more than this is written as several files and an index.
      track: gets the tensors' names and gives them back, one before each is written.

    Raises:
      FileExistsError: `path` exists.
    """
    weights = to_weights(checkpoint.config, checkpoint.tensors)
    sizes = {
        name: int(np.prod(x.shape)) * np.dtype(dtype or x.dtype).itemsize
        for name, x in weights.items()
    }
    names = iter(track(weights))
    shards = _shards(sizes, shard_bytes)
    with complete_folder(path) as folder:
        for i, shard in enumerate(shards):
            arrays = {name: weights[name].read() for name in itertools.islice(names, len(shard))}
            if dtype is not None:
                arrays = {name: x.astype(dtype, copy=False) for name, x in arrays.items()}
            write_safetensors(folder / _shard_name(i, len(shards)), arrays)
        if len(shards) > 1:
            where = {
                name: _shard_name(i, len(shards))
                for i, shard in enumerate(shards)
                for name in shard
            }
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
            _write_json(folder / f"{WEIGHTS}.index.json", index)
        stored = np.dtype(dtype or next(iter(weights.values())).dtype).name
        _write_json(folder / CONFIG_FILE, _config_file(checkpoint.config, stored))
        if checkpoint.vocabulary is not None:
            write_huggingface(checkpoint.vocabulary, folder)
        if not checkpoint.config.encoder_only:
            fields = generation_defaults.write(
                checkpoint.generation, checkpoint.config, checkpoint.limit
            )
            _write_json(folder / GENERATION_FILE, fields)


def _config_file(config: T5Config, dtype: str) -> dict[str, Any]:
    kind = "t5"
    name = "T5"
    if config.relative_bias == "per_layer":
        kind, name = "umt5", "UMT5"
    elif config.long:
        kind, name = "longt5", "LongT5"
    part = "EncoderModel" if config.encoder_only else "ForConditionalGeneration"
    fields = config_fields(config)
    if config.encoder_only:
        fields["num_decoder_layers"] = config.num_layers
    return {
        "model_type": kind,
        "architectures": [name + part],
        "is_encoder_decoder": not config.encoder_only,
        "torch_dtype": dtype,
        **fields,
    }


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    total = 0
    for name, size in sizes.items():
        if shards[-1] and total + size > limit:
            shards.append([])
            total = 0
        shards[-1].append(name)
        total += size
    return shards


def _shard_name(i: int, shards: int) -> str:
    if shards == 1:
        return WEIGHTS
    return WEIGHTS.replace(".", f"-{i + 1:05d}-of-{shards:05d}.", 1)


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
