"""`VARIANTS`: the published sizes."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from t5jax.model.bart.config import BartConfig


def _sized(layers: int, width: int, heads: int, mlp: int, **more: Any) -> BartConfig:
    """As many layers in both stacks."""
    sizes: dict[str, Any] = {
        f"{stack}_{name}": value
        for stack in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", mlp))
    }
    return BartConfig(**{**sizes, "d_model": width, **more})


_M2M: dict[str, Any] = {
    "norm_first": True, "embedding_norm": False, "scale_embedding": True,
    "activation_function": "relu", "positions": "offset_sines", "position_offset": 0,
    "attention_dropout": 0.1,
}  # fmt: skip
_MBART: dict[str, Any] = {"norm_first": True, "scale_embedding": True}
_PEGASUS: dict[str, Any] = {
    "vocab_size": 96103, "norm_first": True, "embedding_norm": False, "scale_embedding": True,
    "activation_function": "relu", "positions": "sines", "position_offset": 0,
    "attention_dropout": 0.1, "activation_dropout": 0.1,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_MARIAN: dict[str, Any] = {
    "vocab_size": 58101, "embedding_norm": False, "scale_embedding": True, "logits_bias": True,
    "activation_function": "silu", "positions": "sines", "position_offset": 0,
    "max_encoder_positions": 512, "max_decoder_positions": 512,
    "pad_token_id": 58100, "eos_token_id": 0, "decoder_start_token_id": 58100,
}  # fmt: skip

VARIANTS = MappingProxyType(
    {
        # Lewis et al. 2019 (arXiv:1910.13461).
        "bart_base": _sized(6, 768, 12, 3072),
        "bart_large": _sized(12, 1024, 16, 4096),
        # Liu et al. 2020 (arXiv:2001.08210); Tang et al. 2020 (arXiv:2008.00401).
        "mbart_large_cc25": _sized(12, 1024, 16, 4096, vocab_size=250027, **_MBART),
        "mbart_large_50": _sized(12, 1024, 16, 4096, vocab_size=250054, **_MBART),
        # Zhang et al. 2020 (arXiv:1912.08777).
        "pegasus_large": _sized(16, 1024, 16, 4096, **_PEGASUS),
        # Tiedemann and Thottingal 2020 (OPUS-MT), the sizes of opus-mt-en-de.
        "opus_mt": _sized(6, 512, 8, 2048, **_MARIAN),
        # Fan et al. 2020 (arXiv:2010.11125).
        "m2m100_418m": _sized(12, 1024, 16, 4096, vocab_size=128112, **_M2M),
        "m2m100_1_2b": _sized(24, 1024, 16, 8192, vocab_size=128112, **_M2M),
        # NLLB team 2022 (arXiv:2207.04672).
        "nllb_600m": _sized(12, 1024, 16, 4096, vocab_size=256206, **_M2M),
        "nllb_1_3b": _sized(24, 1024, 16, 8192, vocab_size=256206, **_M2M),
        "nllb_3_3b": _sized(24, 2048, 16, 8192, vocab_size=256206, **_M2M),
    }
)
