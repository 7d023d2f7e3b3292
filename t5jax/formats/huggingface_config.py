"""The architecture as Hugging Face folders describe it: config.json, and what weights tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t5jax.formats import generation_defaults
from t5jax.formats.checkpoint import Tensor
from t5jax.knobs import short
from t5jax.model.t5.config import T5Config
from t5jax.schema import Schema, check, read_json

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
# The embedding under all its names: copies of one table.
EMBEDDINGS = (
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
)
HEAD = "lm_head.weight"
# Entries that are compared at a time.
_PIECE = 2**22


class ConfigJson(Schema):
    """The fields of a config.json that are read; null is as if a field were not there."""

    model_type: str | None = None
    architectures: list[str] | None = None
    vocab_size: int | None = None
    d_model: int | None = None
    d_kv: int | None = None
    d_ff: int | None = None
    num_heads: int | None = None
    num_layers: int | None = None
    num_decoder_layers: int | None = None
    feed_forward_proj: str | None = None
    dense_act_fn: str | None = None
    is_gated_act: bool | None = None
    layer_norm_epsilon: float | None = None
    dropout_rate: float | None = None
    relative_attention_num_buckets: int | None = None
    relative_attention_max_distance: int | None = None
    encoder_attention_type: str | None = None
    local_radius: int | None = None
    global_block_size: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    tie_word_embeddings: bool | None = None
    scale_decoder_outputs: bool | None = None


class GenerationJson(Schema):
    """The ids of a generation_config.json that belong to the architecture."""

    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None


# Fields that their T5Config has under the same name and with the same meaning.
_FIELDS = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers",
    "feed_forward_proj", "layer_norm_epsilon", "relative_attention_num_buckets",
    "relative_attention_max_distance", "pad_token_id", "eos_token_id", "decoder_start_token_id",
)  # fmt: skip
# What the fields are worth where a config.json is silent, which older ones are at length.
_DEFAULTS = {
    "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8,
    "num_layers": 6, "feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_UMT5_DEFAULTS = {
    "vocab_size": 250112, "d_ff": 1024, "num_heads": 6, "num_layers": 8,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_LONGT5_DEFAULTS = {
    "encoder_attention_type": "local", "local_radius": 127, "global_block_size": 16,
}  # fmt: skip
_LONGT5_FIELDS = tuple(_LONGT5_DEFAULTS)
_MODEL_TYPES = {
    "t5": _DEFAULTS,
    "mt5": _DEFAULTS | _UMT5_DEFAULTS,
    "umt5": _DEFAULTS | _UMT5_DEFAULTS,
    "longt5": _DEFAULTS | _LONGT5_DEFAULTS,
}
# Other names of the same MLP, and the non-linearity that each of ours has by transformers' name.
_SAME_MLP = {
    "swish": "silu", "gated-swish": "gated-silu", "gelu_pytorch_tanh": "gelu_new",
    "gated-gelu_new": "gated-gelu", "gated-gelu_pytorch_tanh": "gated-gelu",
}  # fmt: skip
_FUNCTIONS = {
    "gated-gelu": {"gelu_new", "gelu_pytorch_tanh"},
    "gelu_new": {"gelu_new", "gelu_pytorch_tanh"},
    "silu": {"silu", "swish"},
    "gated-silu": {"silu", "swish"},
}
_GENERATING = ("ForConditionalGeneration", "WithLMHeadModel")
_PARTS = (*_GENERATING, "EncoderModel", "Model")
# What says nothing of the network's outputs: bookkeeping, training, and what follows from other
# fields.
_SILENT = frozenset(
    """
    _name_or_path _commit_hash _attn_implementation transformers_version torch_dtype dtype
    name_or_path n_positions is_encoder_decoder is_decoder use_cache initializer_factor
    initializer_range classifier_dropout output_past output_attentions output_hidden_states
    return_dict torchscript use_bfloat16 gradient_checkpointing chunk_size_feed_forward
    add_cross_attention cross_attention_hidden_size tie_encoder_decoder tokenizer_class
    task_specific_params id2label label2id num_labels problem_type finetuning_task prefix
    bos_token_id sep_token_id scalable_attention hidden_size num_attention_heads num_hidden_layers
    head_dim pruned_heads xla_device tf_legacy_loss output_scores return_dict_in_generate
    eos_token_ids
    """.split()
)


def config_fields(config: T5Config) -> dict[str, Any]:
    """What transformers' configuration is to be given for the same architecture."""
    names = _FIELDS + (_LONGT5_FIELDS if config.long else ())
    fields = {name: getattr(config, name) for name in names}
    # Transformers 4 reads both facts out of the first, transformers 5 the scaling out of the
    # second and an own head out of the weights.
    return fields | {
        "dropout_rate": config.dropout,
        "tie_word_embeddings": config.tie_word_embeddings,
        "scale_decoder_outputs": config.scale_decoder_outputs,
    }


def read_json_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of config.json, and of generation, as transformers 5 finds the latter.

    They are those of generation_config.json; of config.json where there is no such file.
    (transformers 4 prefers config.json beside a generation_config.json that says
    `_from_model_config`.) Several EOS in config.json end outputs here even where the other file
    has none, with which transformers would never end.

    Raises:
      ValueError: a file is not JSON, or a field is of another type than transformers writes.
    """
    content = read_json(folder / CONFIG_FILE, dict[str, Any])
    check(ConfigJson, content, folder / CONFIG_FILE)
    file = folder / GENERATION_FILE
    if not file.is_file():
        return content, generation_defaults.of_config(content)
    generation = read_json(file, dict[str, Any])
    check(GenerationJson, generation, file)
    if isinstance(content.get("eos_token_id"), list) and generation.get("eos_token_id") is None:
        generation["eos_token_id"] = content["eos_token_id"]
    return content, generation


def read_config(
    folder: Path,
    content: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    generation: Mapping[str, Any],
) -> T5Config:
    """The architecture that a folder's files and weights describe.

    Whether the head is its own is told by the weights: transformers 5 writes that embeddings are
    tied whatever they are. Scaling is `scale_decoder_outputs`; before transformers 5, what
    `tie_word_embeddings` says of T5 and LongT5, and never done in mT5 and umT5. The start id is
    that of generation, where it has one.

    Args:
      folder: where the files are.
      content: config.json, as `read_json_files` gives it.
      weights: the tensors by name.
      generation: the fields of generation.

    Raises:
      ValueError: not a model of this family, or with a field that would change its outputs and is
        not supported.
    """
    file = folder / CONFIG_FILE
    said = check(ConfigJson, content, file)
    model_type = said.model_type or "t5"
    if model_type not in _MODEL_TYPES:
        raise ValueError(
            f"{file}: model_type={model_type!r} is not supported; supported: "
            f"{', '.join(_MODEL_TYPES)}"
        )
    for name in said.architectures or ():
        if not name.endswith(_PARTS):
            raise ValueError(
                f"{file}: architecture {name} is not supported; supported are the models "
                "ForConditionalGeneration and EncoderModel"
            )
    defaults = _MODEL_TYPES[model_type]
    fields: dict[str, Any] = {
        name: content[name] if content.get(name) is not None else defaults[name]
        for name in defaults
    }
    fields["num_decoder_layers"] = said.num_decoder_layers or fields["num_layers"]
    if isinstance(fields["eos_token_id"], list):
        fields["eos_token_id"] = next(iter(fields["eos_token_id"]), defaults["eos_token_id"])
    if (start := generation.get("decoder_start_token_id")) is not None:
        fields["decoder_start_token_id"] = start
    unknown = sorted(set(content) - set(ConfigJson.model_fields) - _SILENT - _OPTIONS)
    if unknown:
        name = unknown[0]
        raise ValueError(
            f"{file}: {name}={short(content[name])} is not known to t5jax and might change the "
            "outputs; remove it from the file if it does not"
        )
    fields["feed_forward_proj"] = _mlp(said, fields["feed_forward_proj"], file)
    tied = said.tie_word_embeddings is not False
    scaled = said.scale_decoder_outputs
    if scaled is None:
        scaled = tied and model_type in ("t5", "longt5")
    whole = any(name.endswith(_GENERATING) for name in said.architectures or ())
    if not whole and not any(name.startswith("decoder.block.") for name in weights):
        fields["num_decoder_layers"], own_head = 0, False
    elif tied and HEAD in weights:
        embedding = next((weights[name] for name in EMBEDDINGS if name in weights), None)
        own_head = embedding is None or not same(weights[HEAD], embedding)
    else:
        own_head = not tied
    try:
        config = T5Config(
            **fields,
            dropout=0.1 if said.dropout_rate is None else said.dropout_rate,
            tie_word_embeddings=not own_head,
            scale_decoder_outputs=scaled,
            relative_bias="per_layer" if model_type == "umt5" else "shared",
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if HEAD not in weights and own_head:
        raise ValueError(f"{folder}: {HEAD} is missing; {CONFIG_FILE} says the head is its own")
    return config


_OPTIONS = generation_defaults.NAMES


def _mlp(said: ConfigJson, name: str, file: Path) -> str:
    """`feed_forward_proj` by our name for it; the two fields that follow from it must agree."""
    name = _SAME_MLP.get(name, name)
    functions = _FUNCTIONS.get(name, {name.removeprefix("gated-")})
    if said.dense_act_fn is not None and said.dense_act_fn not in functions:
        raise ValueError(
            f"{file}: dense_act_fn={said.dense_act_fn!r} is another non-linearity than that of "
            f"feed_forward_proj={name!r}; make them agree"
        )
    if said.is_gated_act is not None and said.is_gated_act != name.startswith("gated-"):
        raise ValueError(
            f"{file}: is_gated_act={said.is_gated_act} does not go with "
            f"feed_forward_proj={name!r}; make them agree"
        )
    return name


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, read piece by piece."""
    if a.shape != b.shape:
        return False
    ours, theirs = a.read(), b.read()
    one_memory = ours.ctypes.data == theirs.ctypes.data and ours.strides == theirs.strides
    if one_memory and ours.dtype == theirs.dtype:
        return True
    rows = max(1, _PIECE // max(1, math.prod(a.shape[1:])))
    return all(
        np.array_equal(ours[i : i + rows], theirs[i : i + rows], equal_nan=True)
        for i in range(0, len(ours), rows)
    )
