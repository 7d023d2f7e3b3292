"""Models of other libraries, for the benchmarks."""

from __future__ import annotations

import t5jax
from t5jax.formats.huggingface import config_fields


def random_torch_t5(config: t5jax.T5Config):
    """transformers' T5ForConditionalGeneration with its own random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(**config_fields(config))
    ).eval()
