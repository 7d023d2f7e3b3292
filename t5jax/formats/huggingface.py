"""The names and layouts of Hugging Face's T5: one table, each direction derived from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from t5jax.model.config import T5Config
from t5jax.model.parameters import Params, abstract_params, stack, unstack


class Transform(NamedTuple):
    """One tensor's way from their layout to ours, and back."""

    read: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]  # theirs, our shape -> ours
    write: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda x, shape: x.reshape(shape), lambda x: x)
# Their linear layers are [out, in]; ours [in, out], with heads and head_dim apart.
TRANSPOSED = Transform(lambda x, shape: x.T.reshape(shape), lambda x: x.T)
INTO_HEADS = Transform(TRANSPOSED.read, lambda x: x.reshape(x.shape[0], -1).T)
OUT_OF_HEADS = Transform(TRANSPOSED.read, lambda x: x.reshape(-1, x.shape[-1]).T)

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}


def _rows(config: T5Config) -> Iterator[tuple[str, str, Transform]]:
    """Their key, our path in the unrolled tree, the transform."""
    yield "shared.weight", "token_embedder/embedding", SAME
    if not config.tie_word_embeddings:
        yield "lm_head.weight", "head/kernel", TRANSPOSED
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


# Fields that their T5Config has under the same name and with the same meaning.
_FIELDS = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers",
    "feed_forward_proj", "tie_word_embeddings", "scale_decoder_outputs", "layer_norm_epsilon",
    "relative_attention_num_buckets", "relative_attention_max_distance", "pad_token_id",
    "eos_token_id", "decoder_start_token_id",
)  # fmt: skip


def config_fields(config: T5Config) -> dict[str, Any]:
    """What transformers' T5Config, or LongT5Config, is to be given for the same architecture."""
    fields = {name: getattr(config, name) for name in _FIELDS}
    if config.long:
        names = ("encoder_attention_type", "local_radius", "global_block_size")
        fields |= {name: getattr(config, name) for name in names}
        # Their LongT5 ties the head whatever this says, and scales if it says so.
        fields["tie_word_embeddings"] = config.scale_decoder_outputs
    return fields | {"dropout_rate": config.dropout}


def from_state_dict(config: T5Config, tensors: Mapping[str, np.ndarray]) -> Params:
    """Their tensors by name -> our float32 tree with stacked layers.

    Raises:
      ValueError: a tensor is missing, or does not fit the configuration.
    """
    shapes = flatten_dict(jax.eval_shape(unstack, abstract_params(config)), sep="/")
    flat = {}
    for key, path, transform in _rows(config):
        if key not in tensors:
            raise ValueError(f"{key} is missing; the configuration asks for {path}")
        tensor, shape = np.asarray(tensors[key]), shapes[path].shape
        if tensor.size != np.prod(shape):
            raise ValueError(f"{key} has shape {tensor.shape}, which does not fit {path} {shape}")
        flat[path] = jnp.asarray(transform.read(tensor, shape), jnp.float32)
    return stack(unflatten_dict(flat, sep="/"))


def to_state_dict(config: T5Config, params: Params) -> dict[str, Any]:
    """Our tree with stacked layers -> their tensors by name, as NumPy arrays."""
    flat = flatten_dict(unstack(params), sep="/")
    return {
        key: np.ascontiguousarray(transform.write(np.asarray(flat[path])))
        for key, path, transform in _rows(config)
    }
