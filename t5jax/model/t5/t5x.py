"""T5 in T5X's format: the tensor table, and the architecture from arrays and gin files.

Layers are unstacked (`encoder/layers_0/…`, T5X's `t5`) or stacked on the second axis
(`encoder/encoder/…`, its `scalable_t5`). Shapes give the architecture, except for a gated MLP's
activation and LongT5's blocks, which come from a gin file or the caller.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from t5jax.knobs import short
from t5jax.model.parameters import paths
from t5jax.model.t5.config import T5Config
from t5jax.model.tensors import SAME, TensorRow, Tensors, Transform
from t5jax.schema import Schema

# T5X's `t5` joins heads and head_dim, its `scalable_t5` does not.
_INTO_HEADS = Transform(SAME.read, lambda x: x.reshape(x.shape[0], -1))
_OUT_OF_HEADS = Transform(SAME.read, lambda x: x.reshape(-1, x.shape[-1]))

_ENCODER = {
    "pre_attention_layer_norm/scale": "pre_attention_layer_norm/scale",
    **{f"attention/{k}/kernel": f"self_attention/{k}" for k in ("query", "key", "value", "out")},
    # LongT5's norm of global tokens, in flaxformer's numbering.
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


class Gin(Schema):
    """Bindings of gin files that shapes do not determine."""

    mlp_activations: tuple[str, ...] | list[str] = ()
    local_radius: int | None = None
    tokens_per_block: int | None = None
    dropout_rate: float | None = None


def rows(config: T5Config, *, stacked: bool) -> Iterator[TensorRow]:
    """The tensor table. Unstacked layers join heads and head_dim."""
    yield TensorRow(("token_embedder/embedding",), "token_embedder/embedding")
    if not config.tied_head:
        yield TensorRow(("decoder/logits_dense/kernel",), "head/kernel")
    if config.global_tokens:
        yield TensorRow((_SIDE_BIAS,), "encoder/global_relpos_bias/rel_embedding")
    depths = {"encoder": config.num_layers, "decoder": config.num_decoder_layers}
    known = set(paths(config))
    for name, depth in depths.items():
        if depth:
            yield TensorRow((f"{name}/{name}_norm/scale",), f"{name}/norm/scale")
        if f"{name}/{_BIAS}" in known:
            yield TensorRow((f"{name}/{_BIAS}",), f"{name}/{_BIAS}")
        table = (_ENCODER if name == "encoder" else _DECODER) | _BOTH | {_BIAS: _BIAS}
        for i in range(depth):
            for theirs, ours in table.items():
                path = f"{name}/layers_{i}/{ours}"
                if path not in known:
                    continue
                if stacked:
                    yield TensorRow((f"{name}/{name}/{theirs}",), path, layer=i)
                else:
                    yield TensorRow((f"{name}/layers_{i}/{theirs}",), path, _transform(theirs))


def _transform(name: str) -> Transform:
    if "attention/" not in name or not name.endswith("/kernel"):
        return SAME
    return _OUT_OF_HEADS if "/out/" in name else _INTO_HEADS


def read_config(
    folder: Path,
    target: Tensors,
    stacked: bool,
    bindings: Iterable[tuple[Path, str, Any]],
    changes: Mapping[str, Any],
) -> tuple[T5Config, dict[str, str]]:
    """The architecture, and its fields that are assumed.

    Args:
      folder: the checkpoint's folder, for errors.
      target: its arrays by name.
      stacked: whether layers are stacked.
      bindings: file, name and value of each binding in gin files.
      changes: fields that the caller sets.

    Raises:
      ValueError: not a T5, or unsupported activations.
    """
    said = _said(bindings)
    config = _shown(folder, target, stacked)
    if config.global_tokens:
        said.pop("encoder_attention_type", None)
    told = {**said, **changes}
    assumed: dict[str, str] = {}
    if "feed_forward_proj" not in told:
        assumed["feed_forward_proj"] = config.feed_forward_proj
    if not said and not config.global_tokens and "encoder_attention_type" not in changes:
        assumed["encoder_attention_type"] = config.encoder_attention_type
    return config.replace(**told), assumed


def _shown(folder: Path, target: Tensors, stacked: bool) -> T5Config:
    """The architecture from shapes.

    The rows of the bias table are heads. T5X scales the decoder's output if the head is tied.
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
    # Flax's gelu is the tanh form; T5X has no exact GELU.
    ("gelu",): "gelu_new",
    ("silu",): "silu",
    ("swish",): "silu",
    ("relu", "linear"): "gated-relu",
    ("gelu", "linear"): "gated-gelu",
    ("silu", "linear"): "gated-silu",
    ("swish", "linear"): "gated-silu",
}


# LongT5's blocks. With local attention, only these bindings distinguish LongT5 from T5.
_LONGT5 = {"local_radius": "local_radius", "tokens_per_block": "global_block_size"}


def _said(bindings: Iterable[tuple[Path, str, Any]]) -> dict[str, Any]:
    """Our fields from gin files; the first binding of each counts."""
    found: dict[str, Any] = {}
    for file, name, value in bindings:
        if name == "mlp_activations":
            if tuple(value) not in _ACTIVATIONS:
                raise ValueError(
                    f"{file}: mlp_activations={short(value)} is not supported; supported: "
                    f"{', '.join(map(str, _ACTIVATIONS))}"
                )
            found.setdefault("feed_forward_proj", _ACTIVATIONS[tuple(value)])
        elif name in _LONGT5:
            found.setdefault(_LONGT5[name], value)
            found.setdefault("encoder_attention_type", "local")
        else:
            found.setdefault("dropout", value)
    return found


def check_writable(config: T5Config, stacked: bool | None) -> bool:
    """Whether layers are written stacked.

    Default for `stacked` None: if each layer has a bias table, as only `scalable_t5` allows.

    Raises:
      ValueError: T5X has no such model.
    """
    if config.tie_word_embeddings != config.scale_decoder_outputs and not config.encoder_only:
        raise ValueError(
            "T5X scales the decoder's output where, and only where, the head is tied; this model "
            f"has tie_word_embeddings={config.tie_word_embeddings} and "
            f"scale_decoder_outputs={config.scale_decoder_outputs}"
        )
    per_layer = config.relative_bias == "per_layer"
    if stacked and not per_layer:
        raise ValueError("T5X's stacked layers have a bias table each; this model shares one")
    return per_layer if stacked is None else stacked


def network_fields(config: T5Config) -> dict[str, Any]:
    """The fields of T5X's T5Config."""
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


def gin_text(config: T5Config) -> str:
    """A gin file for `read_config`."""
    fields = network_fields(config)
    lines = ["network.T5Config:", *(f"  {name} = {value!r}" for name, value in fields.items())]
    if config.long:
        lines += ["", "long_attention.SelfAttention:"]
        lines += [f"  {theirs} = {getattr(config, ours)}" for theirs, ours in _LONGT5.items()]
    return "\n".join([*lines, ""])
