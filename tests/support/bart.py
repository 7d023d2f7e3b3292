"""transformers' models of BART's family on random weights, and small configurations of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from t5jax.model.bart.config import BartConfig
from t5jax.model.bart.huggingface import config_json
from tests.support.reference import torch, transformers

SIZES: dict[str, Any] = {
    "vocab_size": 120, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3,
    "encoder_attention_heads": 4, "decoder_attention_heads": 6, "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 64, "max_encoder_positions": 64, "max_decoder_positions": 64,
    "dropout": 0.0,
}  # fmt: skip
CONFIGS = {
    "bart": BartConfig(**SIZES, logits_bias=True),
    "mbart": BartConfig(**SIZES, norm_first=True, scale_embedding=True),
    "pegasus": BartConfig(
        **SIZES, norm_first=True, embedding_norm=False, scale_embedding=True, positions="sines",
        position_offset=0, activation_function="relu", pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    ),
    "marian": BartConfig(
        **SIZES, embedding_norm=False, scale_embedding=True, positions="sines", position_offset=0,
        activation_function="silu", logits_bias=True, pad_token_id=119, eos_token_id=0,
        decoder_start_token_id=119,
    ),
    "m2m_100": BartConfig(
        **SIZES, norm_first=True, embedding_norm=False, scale_embedding=True,
        positions="offset_sines", position_offset=0, activation_function="relu",
    ),
}  # fmt: skip


def random_torch(kind: str, seed: int = 0) -> Any:
    """transformers' model with lively random weights."""
    torch.manual_seed(seed)
    fields = config_json(CONFIGS[kind])
    name = fields.pop("architectures")[0]
    made = getattr(transformers, name).config_class(**fields)
    model = getattr(transformers, name)(made).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(0.3 * noise + (1 if name.endswith("weight") else 0))
            elif name.endswith("bias"):
                weight.copy_(0.3 * noise)
            elif "embed_positions" in name:
                if CONFIGS[kind].positions == "learned":
                    weight.copy_(noise)
            elif "shared" in name or "embed_tokens" in name:
                weight.copy_(0.4 * noise)
            else:
                weight.copy_(1.5 * noise * weight.shape[1] ** -0.5)
        if CONFIGS[kind].logits_bias:
            bias = model.final_logits_bias
            bias.copy_(torch.randn(bias.shape, generator=generator))
    return model


def random_ids(config: BartConfig, seed: int, lengths: list[int]) -> np.ndarray:
    """Ids from 4 up, padded."""
    rng = np.random.default_rng(seed)
    ids = np.full((len(lengths), max(lengths)), config.pad_token_id, np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = rng.integers(4, config.vocab_size - 1, length)
    return ids


def random_prefix(config: BartConfig, seed: int, rows: int, length: int) -> np.ndarray:
    """Decoder inputs."""
    ids = random_ids(config, seed, [length] * rows)
    ids[:, 0] = config.decoder_start_token_id
    return ids
