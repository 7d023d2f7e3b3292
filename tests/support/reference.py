"""transformers' T5 on random weights: the independent reference of the model's tests."""

from __future__ import annotations

import numpy as np
import pytest

from t5jax.formats.assembly import assemble
from t5jax.formats.huggingface import from_weights
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.huggingface import config_fields
from t5jax.model.tensors import Tensor

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def scale_of(model: transformers.PreTrainedModel) -> float:
    """What transformers' logits are to be multiplied by.

    Up to 5.23 transformers 5 scales those of umT5, which nobody trained it with.
    """
    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    scaled = model.config.model_type == "umt5" and (5, 0) <= version < (5, 24)
    return model.config.d_model**0.5 if scaled else 1.0


# What transformers calls a model by its model_type.
KINDS = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5", "longt5": "LongT5"}


def random_torch(
    config: T5Config, seed: int = 0, kind: str = "t5", part: str = "ForConditionalGeneration"
) -> transformers.PreTrainedModel:
    """transformers' model with lively random weights.

    Norm scales differ from 1, relative biases are large, and logits have a spread of a few units,
    so that a wrong bucket, a missing scale or a swapped norm shows.
    """
    torch.manual_seed(seed)
    fields = config_fields(config)
    if not config.num_decoder_layers:
        fields["num_decoder_layers"] = config.num_layers
    kind = "longt5" if config.long else kind
    made = getattr(transformers, KINDS[kind] + "Config")(**fields)
    # transformers 5 ties every new model, and its LongT5Config scales where it ties.
    made.scale_decoder_outputs = config.scale_decoder_outputs
    model = getattr(transformers, KINDS[kind] + part)(made).eval()
    if hasattr(model, "lm_head") and not config.tie_word_embeddings:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "layer_norm" in name:
                weight.copy_(1 + 0.3 * noise)
            elif "relative_attention_bias" in name:
                weight.copy_(2 * noise)
            elif "shared" in name:
                weight.copy_(0.6 * noise)
            elif name.endswith("q.weight"):  # T5's own scale: the 1/sqrt(d) of its attention
                weight.copy_(noise * (weight.shape[1] * config.d_kv) ** -0.5)
            else:
                weight.copy_(noise * weight.shape[1] ** -0.5)
    return model


def random_pair(config: T5Config, seed: int = 0) -> tuple[transformers.PreTrainedModel, dict]:
    """transformers' model with lively random weights, and the same weights as our tree."""
    model = random_torch(config, seed)
    return model, params_of(config, model)


def params_of(config: T5Config, model: transformers.PreTrainedModel) -> dict:
    """The weights of transformers' model as our tree with stacked layers."""
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    weights = {k: Tensor(v.shape, v.dtype, lambda v=v: v) for k, v in weights.items()}
    tensors, _ = from_weights(config, weights)
    return assemble(config, tensors, "training", np.float32)


def ragged_ids(
    rng: np.random.Generator, lengths: list[int], vocab: int, width: int | None = None
) -> np.ndarray:
    """Random ids from 3 up, padded with 0: int64[len(lengths), width]."""
    ids = np.zeros((len(lengths), width or max(lengths)), np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = rng.integers(3, vocab, length)
    return ids
