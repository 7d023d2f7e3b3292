"""The T5 family: T5 1.0 and 1.1, mT5, ByT5, umT5, UL2, Flan, MADLAD-400 and LongT5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5jax.model.family import Family, Sizes, register
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.variants import VARIANTS


def _training(config: T5Config, dtype: Any = "float32", **options: Any) -> Any:
    from t5jax.model.t5.network import T5

    return T5(config, dtype, **options)


def _serving(config: T5Config, dtype: Any) -> Any:
    from t5jax.model.t5.fast import FastT5

    return FastT5(config, dtype)


def _layout(config: T5Config) -> Any:
    from t5jax.model.t5.fusion import serving_layout

    return serving_layout(config)


def _step_flops(config: T5Config, batch: int, inputs: int, targets: int) -> float:
    from t5jax.model.t5.flops import step_flops

    return step_flops(config, batch, inputs, targets)


def _depths(config: T5Config) -> Mapping[str, int]:
    return {"encoder": config.num_layers, "decoder": config.num_decoder_layers}


def _sizes(config: T5Config) -> Sizes:
    c = config
    return Sizes(
        cached=2 * c.num_decoder_layers * c.num_heads * c.d_kv,
        encoder=c.num_layers * c.d_model,
        decoder=c.num_decoder_layers * c.d_model,
        widest=2 * c.d_model + c.d_ff,
    )


register(
    Family(
        name="t5",
        config=T5Config,
        variants=VARIANTS,
        training=_training,
        serving=_serving,
        layout=_layout,
        depths=_depths,
        step_flops=_step_flops,
        sizes=_sizes,
        # A table of relative biases that is pulled towards 0 flattens the attention.
        no_decay=frozenset({"relpos_buckets"}),
        formats={"hf": "t5jax.model.t5.huggingface", "t5x": "t5jax.model.t5.t5x"},
    )
)
