"""BART's family in Hugging Face's format: the tensor table and config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t5jax.model.bart.config import BartConfig
from t5jax.model.bart.positions import table
from t5jax.model.tensors import (
    INTO_HEADS,
    OUT_OF_HEADS,
    SAME,
    TRANSPOSED,
    TensorRow,
    Tensors,
    Transform,
)
from t5jax.schema import Schema, check

SENTENCEPIECE_IDS = False
_BIAS = "final_logits_bias"
# Tables of sines that files may hold (equal to the formula: `read_config`), a bias of zeros, and
# leftovers of fairseq.
IGNORED = (
    r"(model\.)?(encoder|decoder)\.(version|embed_positions\.(weights?|_float_tensor))",
    _BIAS,
)
# A bias of one row, [1, V].
_ONE_ROW = Transform(lambda x, shape: x.reshape(shape), lambda x: x[None])
# The bias of one projection, [N * H].
_FLAT = Transform(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1))


def rows(config: BartConfig) -> Iterator[TensorRow]:
    """The tensor table of a configuration."""

    def row(name: str, path: str, way: Transform = SAME, copies: tuple[str, ...] = ()) -> TensorRow:
        # Folders of the model without its head have no prefix.
        return TensorRow((f"model.{name}", name, *copies), path, way)

    copies = tuple(
        f"{prefix}{stack}.embed_tokens.weight"
        for stack in ("encoder", "decoder")
        for prefix in ("model.", "")
    )
    yield row(
        "shared.weight", "token_embedder/embedding", copies=(*copies, "lm_head.weight")
    )  # fmt: skip
    if config.logits_bias:
        yield TensorRow((_BIAS,), "head/bias", _ONE_ROW)
    for stack in ("encoder", "decoder"):
        if config.positions == "learned":
            yield row(f"{stack}.embed_positions.weight", f"{stack}/position_embedder/embedding")
        norms = {"layernorm_embedding": "embedding_layer_norm"} if config.embedding_norm else {}
        if config.norm_first:
            norms["layer_norm"] = "norm"
        for theirs, ours in norms.items():
            for leaf, mine in (("weight", "scale"), ("bias", "bias")):
                yield row(f"{stack}.{theirs}.{leaf}", f"{stack}/{ours}/{mine}")
        for i in range(getattr(config, f"{stack}_layers")):
            for theirs, ours, way in _layer(stack):
                yield row(f"{stack}.layers.{i}.{theirs}", f"{stack}/layers_{i}/{ours}", way)


def _layer(stack: str) -> Iterator[tuple[str, str, Transform]]:
    """Names of a layer's tensors, paths of its parameters."""
    attentions = {"self_attn": ("self_attention", "attention_layer_norm")}
    if stack == "decoder":
        attentions = {
            "self_attn": ("self_attention", "self_attention_layer_norm"),
            "encoder_attn": ("encoder_decoder_attention", "cross_attention_layer_norm"),
        }
    norms = {"final_layer_norm": "mlp_layer_norm"}
    for theirs, (ours, norm) in attentions.items():
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            yield f"{theirs}.{letter}_proj.weight", f"{ours}/{name}", INTO_HEADS
            yield f"{theirs}.{letter}_proj.bias", f"{ours}/{name}_bias", _FLAT
        yield f"{theirs}.out_proj.weight", f"{ours}/out", OUT_OF_HEADS
        yield f"{theirs}.out_proj.bias", f"{ours}/out_bias", SAME
        norms[f"{theirs}_layer_norm"] = norm
    for theirs, ours in norms.items():
        yield f"{theirs}.weight", f"{ours}/scale", SAME
        yield f"{theirs}.bias", f"{ours}/bias", SAME
    for theirs, ours in (("fc1", "wi"), ("fc2", "wo")):
        yield f"{theirs}.weight", f"mlp/{ours}", TRANSPOSED
        yield f"{theirs}.bias", f"mlp/{ours}_bias", SAME


# config.json


class ConfigJson(Schema):
    """The fields of a config.json that are read; null counts as missing."""

    model_type: str | None = None
    architectures: list[str] | None = None
    vocab_size: int | None = None
    d_model: int | None = None
    encoder_layers: int | None = None
    decoder_layers: int | None = None
    encoder_attention_heads: int | None = None
    decoder_attention_heads: int | None = None
    encoder_ffn_dim: int | None = None
    decoder_ffn_dim: int | None = None
    encoder_layerdrop: float | None = None
    decoder_layerdrop: float | None = None
    activation_function: str | None = None
    scale_embedding: bool | None = None
    max_position_embeddings: int | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    activation_dropout: float | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    share_encoder_decoder_embeddings: bool | None = None
    decoder_vocab_size: int | None = None
    force_bos_token_to_be_generated: bool | None = None
    tie_word_embeddings: bool | None = None


# Fields with the same name and meaning in transformers' configurations.
_FIELDS = (
    "vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads",
    "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim", "encoder_layerdrop",
    "decoder_layerdrop", "activation_function", "scale_embedding", "dropout", "attention_dropout",
    "activation_dropout", "pad_token_id", "eos_token_id", "decoder_start_token_id",
)  # fmt: skip
# What a model_type is, whatever its config.json says.
_KINDS: dict[str, dict[str, Any]] = {
    "bart": {
        "norm_first": False, "embedding_norm": True, "positions": "learned", "position_offset": 2,
    },
    "mbart": {
        "norm_first": True, "embedding_norm": True, "positions": "learned", "position_offset": 2,
    },
    "pegasus": {
        "norm_first": True, "embedding_norm": False, "positions": "sines", "position_offset": 0,
    },
    "marian": {
        "norm_first": False, "embedding_norm": False, "positions": "sines", "position_offset": 0,
    },
    "m2m_100": {
        "norm_first": True, "embedding_norm": False, "positions": "offset_sines",
        "position_offset": 0,
    },
}  # fmt: skip
_ARCHITECTURES = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "pegasus": "PegasusForConditionalGeneration",
    "marian": "MarianMTModel",
    "m2m_100": "M2M100ForConditionalGeneration",
}
# transformers' defaults, for fields that a config.json lacks; older ones lack many.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50265, "d_model": 1024, "activation_function": "gelu", "scale_embedding": False,
    "max_position_embeddings": 1024, "dropout": 0.1, "attention_dropout": 0.0,
    "activation_dropout": 0.0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
    **{
        f"{stack}_{name}": value
        for stack in ("encoder", "decoder")
        for name, value in (
            ("layers", 12), ("attention_heads", 16), ("ffn_dim", 4096), ("layerdrop", 0.0),
        )
    },
}  # fmt: skip
MODEL_TYPES: dict[str, dict[str, Any]] = {
    "bart": _DEFAULTS,
    "mbart": _DEFAULTS,
    "pegasus": _DEFAULTS | {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    "marian": _DEFAULTS
    | {
        "vocab_size": 58101, "pad_token_id": 58100, "eos_token_id": 0,
        "decoder_start_token_id": 58100,
    },
    "m2m_100": _DEFAULTS
    | {
        "vocab_size": 128112, "activation_function": "relu", "scale_embedding": True,
        "attention_dropout": 0.1, "encoder_layerdrop": 0.05, "decoder_layerdrop": 0.05,
    },
}  # fmt: skip
_SAME_ACTIVATION = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new"}
# Fields that do not affect the network's outputs, or follow from other fields.
SILENT = frozenset(
    """
    num_hidden_layers hidden_size num_attention_heads init_std normalize_before
    add_final_layer_norm static_position_embeddings normalize_embedding add_bias_logits
    extra_pos_embeddings classif_dropout save_step
    """.split()
)


def read_config(
    folder: Path, content: Mapping[str, Any], weights: Tensors, start: int | None
) -> BartConfig:
    """The architecture of a folder.

    A table of sines that differs from the formula is used as it is stored: as learned positions. A
    bias of the logits that is zero everywhere is none.

    Args:
      folder: the folder, for errors.
      content: config.json, whose model_type is one of `MODEL_TYPES`.
      weights: the tensors by name.
      start: decoder_start_token_id of generation_config.json, or None.

    Raises:
      ValueError: another architecture, or an unsupported field that would change outputs.
    """
    file = folder / "config.json"
    said = check(ConfigJson, content, file)
    kind = said.model_type or "bart"
    for name in said.architectures or ():
        if not name.endswith(("ForConditionalGeneration", "MTModel", "Model")):
            raise ValueError(
                f"{file}: architecture {name} is not supported; supported is {_ARCHITECTURES[kind]}"
            )
    if said.share_encoder_decoder_embeddings is False:
        raise ValueError(
            f"{file}: share_encoder_decoder_embeddings=False (a vocabulary for each side) is not "
            "supported"
        )
    if said.decoder_vocab_size not in (None, said.vocab_size):
        raise ValueError(
            f"{file}: decoder_vocab_size={said.decoder_vocab_size} is not vocab_size="
            f"{said.vocab_size}; only one vocabulary for both sides is supported"
        )
    if said.tie_word_embeddings is False:
        raise ValueError(f"{file}: tie_word_embeddings=False (a head of its own) is not supported")
    fields = {
        name: default if content.get(name) is None else content[name]
        for name, default in MODEL_TYPES[kind].items()
    }
    longest = fields.pop("max_position_embeddings")
    if isinstance(fields["eos_token_id"], list):
        fields["eos_token_id"] = next(iter(fields["eos_token_id"]), 2)
    if start is not None:
        fields["decoder_start_token_id"] = start
    activation = fields["activation_function"]
    fields["activation_function"] = _SAME_ACTIVATION.get(activation, activation)
    try:
        config = BartConfig(
            **fields,
            **_KINDS[kind],
            max_encoder_positions=longest,
            max_decoder_positions=longest,
            logits_bias=_BIAS in weights and kind != "m2m_100" and _any(weights, _BIAS),
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if config.positions == "sines" and not _follow_the_formula(config, weights):
        return config.replace(positions="learned")
    return config


def _any(weights: Tensors, name: str) -> bool:
    return bool(np.any(weights[name].read()))


def _follow_the_formula(config: BartConfig, weights: Tensors) -> bool:
    """Whether the tables of sines that the files hold, if any, are the formula's."""
    for stack in ("encoder", "decoder"):
        name = f"{stack}.embed_positions.weight"
        for stored in (weights.get(f"model.{name}"), weights.get(name)):
            if stored is None:
                continue
            expected = table(config, stored.shape[0])
            # float16 files are off by 5e-4.
            close = stored.shape == expected.shape and np.allclose(
                stored.read().astype(np.float32), expected, atol=1e-3
            )
            if not close:
                return False
    return True


def generation(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json without a generation_config.json means beside what it says.

    transformers' configurations of all but M2M-100 force EOS at the end. fairseq's
    `force_bos_token_to_be_generated` is what `forced_bos_token_id` is now.
    """
    kind = content.get("model_type") or "bart"
    found = {}
    if kind != "m2m_100" and "forced_eos_token_id" not in content:
        default = MODEL_TYPES[kind]["eos_token_id"]
        found["forced_eos_token_id"] = default
    forced = content.get("forced_bos_token_id")
    if forced is None and content.get("force_bos_token_to_be_generated"):
        found["forced_bos_token_id"] = content.get("bos_token_id", 0)
    return found


def _kind(config: BartConfig) -> str:
    """transformers' model_type of an architecture."""
    for kind, fixed in _KINDS.items():
        own = {name: getattr(config, name) for name in fixed}
        stored = kind in ("pegasus", "marian") and own == fixed | {"positions": "learned"}
        if own == fixed or stored:
            return kind
    own = {name: getattr(config, name) for name in _KINDS["bart"]}
    said = ", ".join(f"{name}={value}" for name, value in own.items())
    raise ValueError(f"Hugging Face has no model with {said}")


def config_json(config: BartConfig) -> dict[str, Any]:
    """The config.json of an exported folder.

    Raises:
      ValueError: transformers has no such model.
    """
    kind = _kind(config)
    if config.max_encoder_positions != config.max_decoder_positions:
        raise ValueError(
            f"max_encoder_positions={config.max_encoder_positions} and max_decoder_positions="
            f"{config.max_decoder_positions} differ; Hugging Face's {kind} has one number for both"
        )
    return {
        "model_type": kind,
        "architectures": [_ARCHITECTURES[kind]],
        "is_encoder_decoder": True,
        "max_position_embeddings": config.max_encoder_positions,
        "num_hidden_layers": config.encoder_layers,
        **{name: getattr(config, name) for name in _FIELDS},
        # None would be the class's default, EOS.
        **({} if kind == "m2m_100" else {"forced_eos_token_id": None}),
    }


def byte_level(config: BartConfig) -> bool:
    """No model of this family is byte-level without a tokenizer file."""
    del config
    return False
