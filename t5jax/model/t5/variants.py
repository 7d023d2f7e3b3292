"""`VARIANTS`: the published sizes."""

from __future__ import annotations

from types import MappingProxyType

from t5jax.model.t5.config import T5Config


def _v1_0(d_model: int, d_ff: int, d_kv: int, heads: int, layers: int) -> T5Config:
    return T5Config(
        d_model=d_model,
        d_ff=d_ff,
        d_kv=d_kv,
        num_heads=heads,
        num_layers=layers,
        num_decoder_layers=layers,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        scale_decoder_outputs=True,
    )


def _v1_1(d_model: int, d_ff: int, heads: int, layers: int, decoder_layers: int = 0) -> T5Config:
    return T5Config(
        d_model=d_model,
        d_ff=d_ff,
        num_heads=heads,
        num_layers=layers,
        num_decoder_layers=decoder_layers or layers,
    )


# Raffel et al. 2020 (arXiv:1910.10683), section 3.7.
_T5 = {
    "small": _v1_0(512, 2048, 64, 8, 6),
    "base": _v1_0(768, 3072, 64, 12, 12),
    "large": _v1_0(1024, 4096, 64, 16, 24),
    "3b": _v1_0(1024, 16384, 128, 32, 24),
    "11b": _v1_0(1024, 65536, 128, 128, 24),
}
_T5_1_1 = {
    "small": _v1_1(512, 1024, 6, 8),
    "base": _v1_1(768, 2048, 12, 12),
    "large": _v1_1(1024, 2816, 16, 24),
    "xl": _v1_1(2048, 5120, 32, 24),
    "xxl": _v1_1(4096, 10240, 64, 24),
}
# Xue et al. 2022 (arXiv:2105.13626), table 1: an encoder three times the decoder's depth.
_BYT5 = {
    "small": _v1_1(1472, 3584, 6, 12, 4),
    "base": _v1_1(1536, 3968, 12, 18, 6),
    "large": _v1_1(1536, 3840, 16, 36, 12),
    "xl": _v1_1(2560, 6720, 32, 36, 12),
    "xxl": _v1_1(4672, 12352, 64, 36, 12),
}

# Tay et al. 2022 (arXiv:2205.05131), section 4.3, and the released checkpoints: the head is tied.
_UL2 = _v1_0(4096, 16384, 256, 16, 32).replace(feed_forward_proj="gated-silu")
# Kudugunta et al. 2023 (arXiv:2309.04662), appendix A.8, and the released configurations, whose
# padding id is 1. Here it is 0, as in training with seqio. EOS is 2.
_MADLAD = {
    "3b": _v1_1(1024, 8192, 16, 32),
    "7b": _v1_1(2048, 8192, 16, 48),
    "10b": _v1_1(2048, 16384, 32, 32),
}

# One line a family of checkpoints: its prefix, its sizes, and differing fields.
VARIANTS = MappingProxyType(
    {f"t5_{size}": config for size, config in _T5.items()}
    | {f"t5_1_1_{size}": config for size, config in _T5_1_1.items()}
    | {f"t5_1_1_lm100k_{size}": config for size, config in _T5_1_1.items()}
    | {f"flan_t5_{size}": config for size, config in _T5_1_1.items()}
    | {f"mt5_{size}": config.replace(vocab_size=250112) for size, config in _T5_1_1.items()}
    | {f"byt5_{size}": config.replace(vocab_size=384) for size, config in _BYT5.items()}
    | {
        # Chung et al. 2023 (arXiv:2304.09151).
        f"umt5_{size}": _T5_1_1[size].replace(vocab_size=256384, relative_bias="per_layer")
        for size in ("small", "base", "xl", "xxl")
    }
    | {"ul2": _UL2, "flan_ul2": _UL2}
    | {
        f"madlad400_{size}": config.replace(d_kv=128, vocab_size=256000, eos_token_id=2)
        for size, config in _MADLAD.items()
    }
    | {
        # Guo et al. 2022 (arXiv:2112.07916), section 4.
        f"longt5_{name}_{size}": _T5_1_1[size].replace(encoder_attention_type=kind)
        for name, kind, sizes in (
            ("local", "local", ("base", "large")),
            ("tglobal", "transient-global", ("base", "large", "xl")),
        )
        for size in sizes
    }
)
