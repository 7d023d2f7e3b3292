"""The family with BART's layers: BART, mBART, PEGASUS, Marian, M2M-100 and NLLB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5jax.model.bart.config import BartConfig
from t5jax.model.bart.variants import VARIANTS
from t5jax.model.family import Family, Sizes, register


def _training(config: BartConfig, dtype: Any = "float32", **options: Any) -> Any:
    from t5jax.model.bart.network import Bart

    return Bart(config, dtype, **options)


def _serving(config: BartConfig, dtype: Any) -> Any:
    from t5jax.model.bart.fast import FastBart

    return FastBart(config, dtype)


def _layout(config: BartConfig) -> Any:
    from t5jax.model.bart.fusion import serving_layout

    return serving_layout(config)


def _depths(config: BartConfig) -> Mapping[str, int]:
    return {"encoder": config.encoder_layers, "decoder": config.decoder_layers}


def _step_flops(config: BartConfig, batch: int, inputs: int, targets: int) -> float:
    """Counted as `t5jax.model.t5.flops.step_flops` does."""
    c, d = config, config.d_model
    attention = 4 * d * d
    encoder = inputs * (attention + 2 * inputs * d + 2 * d * c.encoder_ffn_dim)
    own = targets * (attention + 2 * targets * d)
    cross = 2 * d * d * (targets + inputs) + 2 * targets * inputs * d
    decoder = own + cross + targets * 2 * d * c.decoder_ffn_dim
    head = targets * d * c.vocab_size
    products = c.encoder_layers * encoder + c.decoder_layers * decoder + head
    return 3.0 * 2.0 * batch * products


def _sizes(config: BartConfig) -> Sizes:
    c = config
    return Sizes(
        cached=2 * c.decoder_layers * c.d_model,
        encoder=c.encoder_layers * c.d_model,
        decoder=c.decoder_layers * c.d_model,
        widest=2 * c.d_model + c.encoder_ffn_dim,
    )


register(
    Family(
        name="bart",
        config=BartConfig,
        variants=VARIANTS,
        training=_training,
        serving=_serving,
        layout=_layout,
        depths=_depths,
        step_flops=_step_flops,
        sizes=_sizes,
        no_decay=frozenset({"bias"}),
        formats={"hf": "t5jax.model.bart.huggingface"},
    )
)
