"""transformers' T5 on random weights: the independent reference of the model's tests."""

from __future__ import annotations

import numpy as np
import pytest

from t5jax.formats.huggingface import config_fields, from_state_dict
from t5jax.model.config import T5Config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def random_pair(config: T5Config, seed: int = 0) -> tuple[transformers.PreTrainedModel, dict]:
    """transformers' model with lively random weights, and the same weights as our tree.

    Norm scales differ from 1, relative biases are large, and logits have a spread of a few units,
    so that a wrong bucket, a missing scale or a swapped norm shows.
    """
    torch.manual_seed(seed)
    name = "LongT5" if config.long else "T5"
    theirs = getattr(transformers, f"{name}Config")(**config_fields(config))
    # LongT5Config says True whatever it is told; set to False here it unties the stacks' embedding
    # too, which LongT5 shares.
    theirs.tie_word_embeddings = config.tie_word_embeddings
    model = getattr(transformers, f"{name}ForConditionalGeneration")(theirs).eval()
    model.set_input_embeddings(model.shared)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "layer_norm" in name:
                weight.copy_(1 + 0.3 * noise)
            elif "relative_attention_bias" in name:
                weight.copy_(2 * noise)
            elif "shared" in name:
                weight.copy_(0.5 * noise)
            elif name.endswith("q.weight"):  # T5's own scale: the 1/sqrt(d) of its attention
                weight.copy_(noise * (weight.shape[1] * config.d_kv) ** -0.5)
            else:
                weight.copy_(noise * weight.shape[1] ** -0.5)
    tensors = {k: v.numpy() for k, v in model.state_dict().items()}
    return model, from_state_dict(config, tensors)


def ragged_ids(
    rng: np.random.Generator, lengths: list[int], vocab: int, width: int | None = None
) -> np.ndarray:
    """Random ids from 3 up, padded with 0: int64[len(lengths), width]."""
    ids = np.zeros((len(lengths), width or max(lengths)), np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = rng.integers(3, vocab, length)
    return ids
