"""Models of other libraries, for the benchmarks."""

from __future__ import annotations

import numpy as np

import t5jax
from t5jax.formats.checkpoint import Tensor, assemble
from t5jax.formats.huggingface import config_fields, from_weights


def random_torch_t5(config: t5jax.T5Config):
    """transformers' T5ForConditionalGeneration with its own random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(**config_fields(config))
    ).eval()


def params_of(config: t5jax.T5Config, model):
    """The weights of transformers' model as our tree with stacked layers."""
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    tensors, _ = from_weights(
        config, {k: Tensor(v.shape, v.dtype, lambda v=v: v) for k, v in weights.items()}
    )
    return assemble(config, tensors, np.float32, None, inference=False)
