"""Hugging Face's format: configuration, weights and tokenizer in one folder, read and written.

A family's table (`HuggingFaceTable`) says where each tensor lies; both directions follow it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from t5jax.formats import generation_defaults
from t5jax.formats.checkpoint import (
    About,
    Checkpoint,
    SingleTensors,
    complete_folder,
    completed,
    matches,
)
from t5jax.formats.tensor_files import read_tensors, write_safetensors
from t5jax.knobs import short
from t5jax.model.family import families, family_of
from t5jax.model.parameters import paths
from t5jax.model.tensors import Tensor, TensorRow, Tensors, equal
from t5jax.schema import Schema, check, read_json
from t5jax.vocabulary import (
    Vocabulary,
    from_huggingface,
    from_tokenizer_json,
    write_huggingface,
)

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
WEIGHTS = "model.safetensors"
SHARD_BYTES = 5 * 10**9
# Fields of any config.json that say nothing of the network's outputs: bookkeeping, training.
_SILENT = frozenset(
    """
    _name_or_path _commit_hash _attn_implementation transformers_version torch_dtype dtype
    name_or_path is_encoder_decoder is_decoder use_cache initializer_range classifier_dropout
    output_past output_attentions output_hidden_states return_dict torchscript use_bfloat16
    gradient_checkpointing chunk_size_feed_forward add_cross_attention cross_attention_hidden_size
    tie_encoder_decoder tokenizer_class task_specific_params id2label label2id num_labels
    problem_type finetuning_task prefix bos_token_id sep_token_id pruned_heads xla_device
    tf_legacy_loss output_scores return_dict_in_generate eos_token_ids
    """.split()
)


class HuggingFaceTable(Protocol):
    """The names that a family's table of this format, a module, must have.

    Attributes:
      MODEL_TYPES: of config.json.
      ConfigJson: the fields of config.json that are read, a `Schema`.
      SILENT: fields of the family's config.json that say nothing of the outputs.
      IGNORED: regular expressions of names of tensors that files may hold unused.
      SENTENCEPIECE_IDS: whether ids are those of the SentencePiece model.
    """

    MODEL_TYPES: Collection[str]
    ConfigJson: type[Schema]
    SILENT: frozenset[str]
    IGNORED: tuple[str, ...]
    SENTENCEPIECE_IDS: bool

    def rows(self, config: Any) -> Iterable[TensorRow]:
        """Where every parameter lies."""

    def read_config(
        self, folder: Path, content: Mapping[str, Any], weights: Tensors, start: int | None
    ) -> Any:
        """The configuration of config.json's fields, the weights, and the start id if known."""

    def config_json(self, config: Any) -> dict[str, Any]:
        """The inverse of `read_config`."""

    def generation(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Options of generation that a config.json, alone, means beside those that it says."""

    def byte_level(self, config: Any) -> bool:
        """Whether the tokenizer is bytes even if a folder has no tokenizer file."""


class _Kind(Schema):
    model_type: str | None = None


class _GenerationJson(Schema):
    """The ids of a generation_config.json that belong to the architecture."""

    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None


# reading


def detect(path: Path) -> bool:
    """Whether `path` is a folder of this format."""
    return (path / CONFIG_FILE).is_file()


def read(path: Path, *, allow: tuple[str, ...] = (), **changes: Any) -> SingleTensors:
    """Opens a folder; its tensors are read when they are asked for.

    Args:
      path: the folder.
      allow: regular expressions of names that may be unused or missing.
      changes: fields of the configuration that are to be otherwise than the folder says.

    Raises:
      ValueError: something is damaged, missing, or not supported.
    """
    content = read_json(path / CONFIG_FILE, dict[str, Any])
    table = _table(path / CONFIG_FILE, content)
    generation = _read_generation(path, content, table)
    weights = read_tensors(path)
    _check_known(path / CONFIG_FILE, content, table)
    start = generation.get("decoder_start_token_id")
    config = table.read_config(path, content, weights, start).replace(**changes)
    tensors, used = from_weights(config, weights, path)
    unused = {name for name in set(weights) - used if not matches(name, table.IGNORED)}
    about = About(config, _read_vocabulary(path, table, config), generation)
    return completed(about, tensors, path, unused, allow)


def _table(file: Path, content: Mapping[str, Any]) -> HuggingFaceTable:
    """The table of the family that has the file's model_type; of the first where it has none."""
    tables = [family.table("hf") for family in families() if "hf" in family.formats]
    kind = check(_Kind, content, file).model_type
    for table in tables:
        if kind is None or kind in table.MODEL_TYPES:
            check(table.ConfigJson, content, file)
            return table
    supported = ", ".join(kind for table in tables for kind in table.MODEL_TYPES)
    raise ValueError(f"{file}: model_type={kind!r} is not supported; supported: {supported}")


def _read_generation(
    folder: Path, content: Mapping[str, Any], table: HuggingFaceTable
) -> dict[str, Any]:
    """The fields of generation, as transformers 5 finds them.

    They are those of generation_config.json; of config.json where there is no such file.
    (transformers 4 prefers config.json beside a generation_config.json that says
    `_from_model_config`.) Several EOS in config.json end outputs here even where the other file
    has none, with which transformers would never end.

    Raises:
      ValueError: the file is not JSON, or a field is of another type than transformers writes.
    """
    file = folder / GENERATION_FILE
    if not file.is_file():
        return generation_defaults.of_config(content) | table.generation(content)
    generation = read_json(file, dict[str, Any])
    check(_GenerationJson, generation, file)
    if isinstance(content.get("eos_token_id"), list) and generation.get("eos_token_id") is None:
        generation["eos_token_id"] = content["eos_token_id"]
    return generation


def _check_known(file: Path, content: Mapping[str, Any], table: HuggingFaceTable) -> None:
    """ValueError for a field of config.json that nothing here reads, and that may matter."""
    known = {*table.ConfigJson.model_fields, *table.SILENT, *_SILENT, *generation_defaults.NAMES}
    if unknown := sorted(set(content) - known):
        name = unknown[0]
        raise ValueError(
            f"{file}: {name}={short(content[name])} is not known to t5jax and might change the "
            "outputs; remove it from the file if it does not"
        )


def from_weights(
    config: Any, weights: Tensors, source: Path | str = "the model"
) -> tuple[dict[str, Tensor], set[str]]:
    """Their tensors by name -> ours by path, those that are there; and the names used.

    Raises:
      ValueError: a tensor has another shape, or differs from what it would be a copy of.
    """
    shapes, tensors, used = paths(config), {}, set()
    for row in family_of(config).table("hf").rows(config):
        names = [name for name in row.names if name in weights]
        for name in names[1:]:
            if not equal(weights[name], weights[names[0]]):
                raise ValueError(
                    f"{source}: {name} differs from {names[0]}; only models in which they are one "
                    "are supported"
                )
        used.update(names)
        for name in names[:1]:
            tensors[row.path] = _reading(name, weights[name], shapes[row.path], row, source)
    return tensors, used


def _reading(
    name: str, theirs: Tensor, shape: tuple[int, ...], row: TensorRow, source: Path | str
) -> Tensor:
    expected = row.transform.written_shape(shape)
    if theirs.shape != expected:
        raise ValueError(
            f"{source}: {name} has shape {theirs.shape}; the configuration asks for {expected}"
        )
    return Tensor(shape, theirs.dtype, lambda: row.transform.read(theirs.read(), shape))


def _read_vocabulary(folder: Path, table: HuggingFaceTable, config: Any) -> Vocabulary | None:
    if not table.SENTENCEPIECE_IDS:
        return from_tokenizer_json(folder, config.vocab_size)
    try:
        return from_huggingface(folder, byte_level=table.byte_level(config))
    except FileNotFoundError:
        return None


# writing


def to_weights(config: Any, tensors: Tensors) -> dict[str, Tensor]:
    """Our tensors by path -> theirs by name.

    Raises:
      ValueError: the configuration's family has no table of this format.
    """

    def writing(row: TensorRow) -> Tensor:
        ours, write = tensors[row.path], row.transform.write
        shape = row.transform.written_shape(ours.shape)
        return Tensor(shape, ours.dtype, lambda: np.ascontiguousarray(write(ours.read())))

    return {row.names[0]: writing(row) for row in family_of(config).table("hf").rows(config)}


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
      ValueError: the model's family has no table of this format.
    """
    about = checkpoint.about
    weights = to_weights(about.config, checkpoint.tensors)
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
        fields = family_of(about.config).table("hf").config_json(about.config)
        _write_json(folder / CONFIG_FILE, {**fields, "torch_dtype": stored})
        if about.vocabulary is not None:
            write_huggingface(about.vocabulary, folder)
        if not about.config.encoder_only:
            options = generation_defaults.write(about.generation, about.config, about.limit)
            _write_json(folder / GENERATION_FILE, options)


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
