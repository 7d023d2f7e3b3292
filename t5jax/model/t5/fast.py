"""`FastT5`: the serving network, pure functions of the serving parameters.

It equals the training network (`t5jax.model.t5.network`). The order of its layers' parts is that of
`t5jax.model.skeleton`, its parameters' layout `t5jax.model.t5.fusion`. Kernels may be quantized.

Letters: B inputs, S input tokens, T output tokens, D width, N heads, H head_dim; K new tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5jax.model.contract import Params
from t5jax.model.skeleton import Bias, Layer, Skeleton, heads, out_of_heads
from t5jax.model.t5 import long_attention
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.layers import activate
from t5jax.model.t5.positions import buckets
from t5jax.ops.norms import rms_norm
from t5jax.ops.products import product


@dataclasses.dataclass(frozen=True)
class FastT5(Skeleton):
    """A T5 for serving; see `t5jax.model.contract.Network`.

    With LongT5's attention, `trace_encoder` divides a global token's weight evenly among the tokens
    that it sums; a weight is 0 where a token does not see another.
    """

    config: T5Config

    def embed_inputs(self, params: Params, ids: jax.Array, segments: jax.Array) -> jax.Array:
        return self.look_up(params["token_embedder"]["embedding"], ids)

    def embed_targets(
        self, params: Params, ids: jax.Array, positions: jax.Array, room: int
    ) -> jax.Array:
        return self.look_up(params["token_embedder"]["embedding"], ids)

    def residual(
        self, p: Params, kind: str, x: jax.Array, function: Callable[[jax.Array], Any]
    ) -> tuple[jax.Array, Any]:
        y, kept = function(self._norm(p[f"pre_{kind}_layer_norm"], x))
        return x + y, kept

    def finish(self, stack: Params, x: jax.Array) -> jax.Array:
        return self._norm(stack["norm"], x)

    def mlp(self, p: Params, x: jax.Array) -> jax.Array:
        hidden = product(x, p["wi"])
        parts = [hidden[..., i] for i in range(hidden.shape[-1])]
        return product(activate(self.config, *parts), p["wo"])

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        if self.config.scale_decoder_outputs:
            hidden = hidden * jnp.asarray(self.config.d_model**-0.5, hidden.dtype)
        return product(hidden, self.ranking_head(params), dtype=jnp.float32)

    def ranking_head(self, params: Params) -> Any:
        if self.config.tied_head:
            return params["token_embedder"]["embedding"]
        return params["head"]["kernel"]

    @property
    def cached(self) -> tuple[int, int, int]:
        return self.config.num_decoder_layers, self.config.num_heads, self.config.d_kv

    def bias(
        self, stack: Params, queries: jax.Array, keys: jax.Array, *, bidirectional: bool
    ) -> Bias:
        found = buckets(self.config, queries, keys, bidirectional=bidirectional)
        if self.config.relative_bias == "per_layer":
            return lambda p: jnp.take(p["relpos_bias"]["rel_embedding"], found, axis=1)
        shared = jnp.take(stack["relpos_bias"]["rel_embedding"], found, axis=1)
        return lambda p: shared

    def encoder_attention(self, stack: Params, segments: jax.Array) -> Layer:
        c = self.config
        if not c.long:
            return super().encoder_attention(stack, segments)
        side_table = stack["global_relpos_bias"]["rel_embedding"] if c.global_tokens else None
        table = stack["relpos_bias"]["rel_embedding"]
        bias = long_attention.long_bias(c, segments.shape[1], table, side_table)
        places = long_attention.find_reach(c, segments).places

        def attend(p: Params, y: jax.Array) -> tuple[jax.Array, Any]:
            p, side = p["self_attention"], None
            q, k, v = heads(p, "query_key_value", y)
            if places is not None and bias.side is not None:
                totals = long_attention.sum_blocks(y, places)
                totals = self._norm(p["global_input_layer_norm"], totals)
                kernel = {"key_value": p["query_key_value"][:, 1:]}
                keys, values = (x.swapaxes(1, 2) for x in heads(kernel, "key_value", totals))
                side = long_attention.Side(keys, values, bias.side, places)
            seen = (bias.local, segments, side)
            out = out_of_heads(p, long_attention.attend(q, k, v, *seen))
            return out, lambda: long_attention.dense_weights(q, k, *seen)

        return attend

    def _norm(self, p: Params, x: jax.Array) -> jax.Array:
        return rms_norm(x, p["scale"], self.config.layer_norm_epsilon, self.dtype)
