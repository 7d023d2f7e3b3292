"""`FastBart`: the serving network, pure functions of the serving parameters.

It equals the training network (`t5jax.model.bart.network`). The order of its layers' parts is that
of `t5jax.model.skeleton`, its parameters' layout `t5jax.model.bart.fusion`.

Letters: B inputs, S input tokens, T output tokens, D width, N heads, H head_dim; K new tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5jax.model.bart.config import BartConfig
from t5jax.model.bart.layers import EPSILON, embedding_scale
from t5jax.model.bart.positions import table, within_segments
from t5jax.model.contract import Params
from t5jax.model.skeleton import Skeleton, with_bias
from t5jax.ops.activations import ACTIVATIONS
from t5jax.ops.norms import layer_norm
from t5jax.ops.products import product


@dataclasses.dataclass(frozen=True)
class FastBart(Skeleton):
    """A BART, mBART, PEGASUS, Marian, M2M-100 or NLLB; see `t5jax.model.contract.Network`."""

    config: BartConfig

    def embed_inputs(self, params: Params, ids: jax.Array, segments: jax.Array) -> jax.Array:
        counted = self.config.positions != "offset_sines"
        positions = within_segments(segments, padding=counted)
        at = self._positions(params["encoder"], positions, segments.shape[1])
        if not counted:
            at = jnp.where((segments != 0)[..., None], at, 0.0)
        return self._embed(params, "encoder", ids, at)

    def embed_targets(
        self, params: Params, ids: jax.Array, positions: jax.Array, room: int
    ) -> jax.Array:
        at = self._positions(params["decoder"], positions, room)
        return self._embed(params, "decoder", ids, at)

    def _positions(self, stack: Params, positions: jax.Array, room: int) -> jax.Array:
        """The embeddings [..., D] of positions, of which `room` are in use."""
        c = self.config
        if c.positions == "learned":
            rows, positions = stack["position_embedder"]["embedding"], positions + c.position_offset
        else:
            rows = table(c, room)
        return jnp.take(rows, positions, axis=0, mode="clip").astype(self.dtype)

    def _embed(self, params: Params, stack: str, ids: jax.Array, at: jax.Array) -> jax.Array:
        x = self.look_up(params["token_embedder"]["embedding"], ids)
        x = x * embedding_scale(self.config, x.dtype) + at
        norm = params[stack].get("embedding_layer_norm")
        return x if norm is None else self._norm(norm, x)

    def residual(
        self, p: Params, kind: str, x: jax.Array, function: Callable[[jax.Array], Any]
    ) -> tuple[jax.Array, Any]:
        norm = p[f"{kind}_layer_norm"]
        if self.config.norm_first:
            y, kept = function(self._norm(norm, x))
            return x + y, kept
        y, kept = function(x)
        return self._norm(norm, x + y), kept

    def finish(self, stack: Params, x: jax.Array) -> jax.Array:
        return self._norm(stack["norm"], x) if self.config.norm_first else x

    def mlp(self, p: Params, x: jax.Array) -> jax.Array:
        x = with_bias(product(x, p["wi"]), p, "wi_bias")
        x = ACTIVATIONS[self.config.activation_function](x)
        return with_bias(product(x, p["wo"]), p, "wo_bias")

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        logits = product(hidden, params["token_embedder"]["embedding"], dtype=jnp.float32)
        return with_bias(logits, params["head"], "bias") if self.config.logits_bias else logits

    def ranking_head(self, params: Params) -> Any:
        return None if self.config.logits_bias else params["token_embedder"]["embedding"]

    @property
    def cached(self) -> tuple[int, int, int]:
        c = self.config
        heads = c.decoder_attention_heads
        return c.decoder_layers, heads, c.d_model // heads

    def scaled(self, q: jax.Array) -> jax.Array:
        return q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)

    def _norm(self, p: Params, x: jax.Array) -> jax.Array:
        return layer_norm(x, p["scale"], p["bias"], EPSILON, self.dtype)
