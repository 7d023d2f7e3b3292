"""T5's serving layout: output dimensions first, and kernels of one input fused.

A CPU reads a matrix [outputs, inputs] in memory order. Self-attention's query, key and value are
one kernel [N, 3, H, D], cross-attention's key and value [N, 2, H, D], the MLP's input projections
[F, 2, D]. The dimension that a mesh may shard (N, F) comes before the fused one.
"""

from __future__ import annotations

import functools

from t5jax.model.layout import Layout, Leaf, same
from t5jax.model.t5.config import T5Config

_SAME = (
    "relpos_bias/rel_embedding",
    "global_relpos_bias/rel_embedding",
    "global_input_layer_norm/scale",
    "pre_attention_layer_norm/scale",
    "pre_self_attention_layer_norm/scale",
    "pre_cross_attention_layer_norm/scale",
    "pre_mlp_layer_norm/scale",
    "norm/scale",
)


def _heads(*names: str) -> Leaf:
    """[D, N, H] each -> [N, len(names), H, D]."""
    return Leaf(names, (1, 2, 0), axis=1, contracted=1)


@functools.cache
def serving_layout(config: T5Config) -> Layout:
    """The serving layout of a configuration."""
    out = Leaf(("out",), (2, 0, 1), contracted=2)  # [N, H, D] -> [D, N, H]
    wi = ("wi_0", "wi_1") if config.gated else ("wi",)
    # A tied embedding is also a kernel; rows of another embedding are only looked up.
    head = int(config.tied_head)
    return {name: same(name.rpartition("/")[2]) for name in _SAME} | {
        "token_embedder/embedding": Leaf(("embedding",), contracted=head, head=bool(head)),
        "head/kernel": Leaf(("kernel",), (1, 0), contracted=1, head=True),
        "self_attention/query_key_value": _heads("query", "key", "value"),
        "self_attention/out": out,
        "encoder_decoder_attention/query": _heads("query"),
        "encoder_decoder_attention/key_value": _heads("key", "value"),
        "encoder_decoder_attention/out": out,
        "mlp/wi": Leaf(wi, (1, 0), axis=1, contracted=1),
        "mlp/wo": Leaf(("wo",), (1, 0), contracted=1),
    }
