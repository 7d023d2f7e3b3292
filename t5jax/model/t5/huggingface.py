"""T5 in Hugging Face's format: the tensor table and config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from t5jax.model.t5.config import T5Config
from t5jax.model.tensors import (
    INTO_HEADS,
    OUT_OF_HEADS,
    SAME,
    TRANSPOSED,
    TensorRow,
    Tensors,
    Transform,
    equal,
)
from t5jax.schema import Schema, check

# Names of one embedding table.
_EMBEDDINGS = (
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
)
_HEAD = "lm_head.weight"
SENTENCEPIECE_IDS = True
# transformers 2 and 3 wrote this unused table; cross-attention has no positions.
IGNORED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

_ATTENTION = {
    "q": ("query", INTO_HEADS),
    "k": ("key", INTO_HEADS),
    "v": ("value", INTO_HEADS),
    "o": ("out", OUT_OF_HEADS),
}


def rows(config: T5Config) -> Iterator[TensorRow]:
    """The tensor table of a configuration."""
    # An encoder alone has no use for the head of the checkpoint that it is a part of.
    head = (_HEAD,) if config.tie_word_embeddings else ()
    yield TensorRow(_EMBEDDINGS + head, "token_embedder/embedding")
    if not config.tied_head:
        yield TensorRow((_HEAD,), "head/kernel", TRANSPOSED)
    # LongT5 names an encoder's attention by its kind.
    own = {"full": "", "local": "Local", "transient-global": "TransientGlobal"}
    kind = f"{own[config.encoder_attention_type]}SelfAttention"
    yield from _stack("encoder", config, {kind: ("attention", "self_attention")})
    decoder = {
        "SelfAttention": ("self_attention", "self_attention"),
        "EncDecAttention": ("cross_attention", "encoder_decoder_attention"),
    }
    yield from _stack("decoder", config, decoder)


def _stack(
    stack: str, config: T5Config, attentions: Mapping[str, tuple[str, str]]
) -> Iterator[TensorRow]:
    """The rows of the encoder or the decoder.

    `attentions`: by the file's name of an attention, our names of its norm and module.
    """
    depth = config.num_layers if stack == "encoder" else config.num_decoder_layers
    if not depth:
        return
    yield TensorRow((f"{stack}.final_layer_norm.weight",), f"{stack}/norm/scale")
    first = next(iter(attentions))

    def table(name: str, layers: range, path: str) -> TensorRow:
        names = tuple(f"{stack}.block.{i}.layer.0.{first}.{name}.weight" for i in layers)
        return TensorRow(names, f"{path}/rel_embedding", TRANSPOSED)

    if config.relative_bias == "shared":
        # Files may hold a copy of it in every layer.
        yield table("relative_attention_bias", range(depth), f"{stack}/relpos_bias")
    if stack == "encoder" and config.global_tokens:
        name, path = "global_relative_attention_bias", "encoder/global_relpos_bias"
        yield table(name, range(depth), path)
    for i in range(depth):
        ours = f"{stack}/layers_{i}"

        def row(
            name: str, path: str, way: Transform = SAME, i: int = i, ours: str = ours
        ) -> TensorRow:
            return TensorRow((f"{stack}.block.{i}.layer.{name}.weight",), f"{ours}/{path}", way)

        for j, (name, (norm, module)) in enumerate(attentions.items()):
            yield row(f"{j}.layer_norm", f"pre_{norm}_layer_norm/scale")
            for letter, (kernel, way) in _ATTENTION.items():
                yield row(f"{j}.{name}.{letter}", f"{module}/{kernel}", way)
        if config.relative_bias == "per_layer":
            yield table("relative_attention_bias", range(i, i + 1), f"{ours}/relpos_bias")
        if stack == "encoder" and config.global_tokens:
            path = "self_attention/global_input_layer_norm/scale"
            yield row(f"0.{first}.global_input_layer_norm", path)
        j = len(attentions)
        yield row(f"{j}.layer_norm", "pre_mlp_layer_norm/scale")
        for kernel in ("wi_0", "wi_1", "wo") if config.gated else ("wi", "wo"):
            yield row(f"{j}.DenseReluDense.{kernel}", f"mlp/{kernel}", TRANSPOSED)


# config.json


class ConfigJson(Schema):
    """The fields of a config.json that are read; null counts as missing."""

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


# Fields with the same name and meaning in transformers' T5Config.
_FIELDS = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers",
    "feed_forward_proj", "layer_norm_epsilon", "relative_attention_num_buckets",
    "relative_attention_max_distance", "pad_token_id", "eos_token_id", "decoder_start_token_id",
)  # fmt: skip
# transformers' defaults, for fields that a config.json lacks; older ones lack many.
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
MODEL_TYPES = {
    "t5": _DEFAULTS,
    "mt5": _DEFAULTS | _UMT5_DEFAULTS,
    "umt5": _DEFAULTS | _UMT5_DEFAULTS,
    "longt5": _DEFAULTS | _LONGT5_DEFAULTS,
}
# Other names of the same MLP, and transformers' names of an MLP's non-linearity.
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
# Fields that do not affect the network's outputs, or follow from other fields.
SILENT = frozenset(
    """
    n_positions initializer_factor scalable_attention hidden_size num_attention_heads
    num_hidden_layers head_dim
    """.split()
)


def read_config(
    folder: Path,
    content: Mapping[str, Any],
    weights: Tensors,
    start: int | None,
) -> T5Config:
    """The architecture of a folder.

    transformers 5 always writes `tie_word_embeddings: true`, so the weights say whether the head is
    tied. Scaling of the decoder's output is `scale_decoder_outputs`; before transformers 5 it was
    `tie_word_embeddings` in T5 and LongT5, and False in mT5 and umT5.

    Args:
      folder: the folder, for errors.
      content: config.json, whose model_type is one of `MODEL_TYPES` or missing.
      weights: the tensors by name.
      start: decoder_start_token_id of generation_config.json, or None.

    Raises:
      ValueError: another architecture, or an unsupported field that would change outputs.
    """
    file = folder / "config.json"
    said = check(ConfigJson, content, file)
    model_type = said.model_type or "t5"
    for name in said.architectures or ():
        if not name.endswith(_PARTS):
            raise ValueError(
                f"{file}: architecture {name} is not supported; supported are the models "
                "ForConditionalGeneration and EncoderModel"
            )
    fields = _fields(content, MODEL_TYPES[model_type])
    if start is not None:
        fields["decoder_start_token_id"] = start
    fields["feed_forward_proj"] = _mlp(said, fields["feed_forward_proj"], file)
    tied = said.tie_word_embeddings is not False
    scaled = said.scale_decoder_outputs
    if scaled is None:
        scaled = tied and model_type in ("t5", "longt5")
    whole = any(name.endswith(_GENERATING) for name in said.architectures or ())
    alone = not whole and not any(name.startswith("decoder.block.") for name in weights)
    if alone:
        fields["num_decoder_layers"] = 0
    own_head = not alone and _own_head(weights, tied)
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
    if _HEAD not in weights and own_head:
        raise ValueError(f"{folder}: {_HEAD} is missing; config.json says the head is its own")
    return config


def _fields(content: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that config.json has by our names; `defaults` where it is silent."""
    fields = {
        name: default if content.get(name) is None else content[name]
        for name, default in defaults.items()
    }
    fields["num_decoder_layers"] = content.get("num_decoder_layers") or fields["num_layers"]
    if isinstance(fields["eos_token_id"], list):
        fields["eos_token_id"] = next(iter(fields["eos_token_id"]), defaults["eos_token_id"])
    return fields


def _own_head(weights: Tensors, tied: bool) -> bool:
    """Whether the head differs from the embedding; `tied` is config.json's claim."""
    if not tied or _HEAD not in weights:
        return not tied
    embedding = next((weights[name] for name in _EMBEDDINGS if name in weights), None)
    return embedding is None or not equal(weights[_HEAD], embedding)


def config_fields(config: T5Config) -> dict[str, Any]:
    """Fields of transformers' configuration for the same architecture."""
    names = _FIELDS + (_LONGT5_FIELDS if config.long else ())
    fields = {name: getattr(config, name) for name in names}
    # transformers 4 reads both facts from tie_word_embeddings; transformers 5 reads scaling from
    # scale_decoder_outputs, and an untied head from the weights.
    return fields | {
        "dropout_rate": config.dropout,
        "tie_word_embeddings": config.tie_word_embeddings,
        "scale_decoder_outputs": config.scale_decoder_outputs,
    }


def config_json(config: T5Config) -> dict[str, Any]:
    """The config.json of an exported folder."""
    kind, name = "t5", "T5"
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
        **fields,
    }


def generation(content: Mapping[str, Any]) -> dict[str, Any]:
    """T5's configurations add no option of generation."""
    del content
    return {}


def byte_level(config: T5Config) -> bool:
    """Whether the model is a ByT5, which may come without a tokenizer file.

    Its 384 rows are 3 special ids, 256 bytes and 125 sentinels.
    """
    return config.vocab_size == 384


def _mlp(said: ConfigJson, name: str, file: Path) -> str:
    """Our name of `feed_forward_proj`; ValueError if dense_act_fn or is_gated_act disagree."""
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
