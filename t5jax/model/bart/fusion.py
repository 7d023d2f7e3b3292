"""BART's serving layout: output dimensions first, and kernels of one input fused.

Self-attention's query, key and value are one kernel [N, 3, H, D] with a bias [N, 3, H],
cross-attention's key and value [N, 2, H, D] and [N, 2, H]; see `t5jax.model.t5.fusion`.
"""

from __future__ import annotations

import functools

from t5jax.model.bart.config import BartConfig
from t5jax.model.layout import Layout, Leaf, same

_NORMS = (
    "embedding_layer_norm", "attention_layer_norm", "self_attention_layer_norm",
    "cross_attention_layer_norm", "mlp_layer_norm", "norm",
)  # fmt: skip


def _attention(module: str, *fused: tuple[str, ...]) -> Layout:
    """The rows of an attention whose kernels are fused so."""
    rows = {
        f"{module}/out": Leaf(("out",), (2, 0, 1), contracted=2),  # [N, H, D] -> [D, N, H]
        f"{module}/out_bias": same("out_bias"),
    }
    for names in fused:
        name = "_".join(names)
        # [D, N, H] each -> [N, len(names), H, D].
        rows[f"{module}/{name}"] = Leaf(names, (1, 2, 0), axis=1, contracted=1)
        biases = tuple(f"{part}_bias" for part in names)
        rows[f"{module}/{name}_bias"] = Leaf(biases, axis=1)
    return rows


@functools.cache
def serving_layout(config: BartConfig) -> Layout:
    """The serving layout of a configuration."""
    del config
    return {
        # The table is also the head.
        "token_embedder/embedding": Leaf(("embedding",), contracted=1, head=True),
        "position_embedder/embedding": same("embedding"),
        "head/bias": same("bias"),
        **{f"{norm}/{leaf}": same(leaf) for norm in _NORMS for leaf in ("scale", "bias")},
        **_attention("self_attention", ("query", "key", "value")),
        **_attention("encoder_decoder_attention", ("query",), ("key", "value")),
        "mlp/wi": Leaf(("wi",), (1, 0), contracted=1),
        "mlp/wi_bias": same("wi_bias"),
        "mlp/wo": Leaf(("wo",), (1, 0), contracted=1),
        "mlp/wo_bias": same("wo_bias"),
    }
