"""`FastT5`: the serving network."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from t5jax.model.cache import KVCache
from t5jax.model.contract import DecoderTrace, EncoderTrace, Params
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.network import T5


@dataclasses.dataclass(frozen=True)
class FastT5:
    """A T5 for serving; see `t5jax.model.contract.Network`."""

    config: T5Config
    dtype: Any

    def _apply(self, params: Params, *args: Any, method: str) -> Any:
        network = T5(self.config, dtype=self.dtype, inference=True)
        return network.apply({"params": params}, *args, method=method)

    def encode(self, params: Params, input_ids: jax.Array, segments: jax.Array) -> jax.Array:
        return self._apply(params, input_ids, segments, method="encode")

    def decode(
        self, params: Params, hidden: jax.Array, segments: jax.Array, decoder_input_ids: jax.Array
    ) -> jax.Array:
        return self._apply(params, hidden, segments, decoder_input_ids, method="decode")

    def cross_kv(self, params: Params, hidden: jax.Array) -> Any:
        return self._apply(params, hidden, method="cross_kv")

    def init_cache(self, rows: int, length: int, beams: int = 1) -> KVCache:
        c = self.config
        return KVCache.init(
            rows,
            length,
            layers=c.num_decoder_layers,
            heads=c.num_heads,
            width=c.d_kv,
            dtype=self.dtype,
            stacked=False,
            beams=beams,
        )

    def decode_hidden(
        self,
        params: Params,
        tokens: jax.Array,
        cross_kv: Any,
        mask: jax.Array,
        cache: KVCache,
        index: jax.Array,
        ancestry: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        args = (tokens, cross_kv, mask, cache, index, ancestry)
        return self._apply(params, *args, method="decode_step_hidden")

    def decode_hidden_several(
        self,
        params: Params,
        tokens: jax.Array,
        cross_kv: Any,
        mask: jax.Array,
        cache: KVCache,
        index: jax.Array,
    ) -> tuple[jax.Array, KVCache]:
        return self._apply(params, tokens, cross_kv, mask, cache, index, method="decode_steps")

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        return self._apply(params, hidden, method="logits")

    def ranking_head(self, params: Params) -> Any:
        if self.config.tied_head:
            return params["token_embedder"]["embedding"]
        return params["head"]["kernel"]

    def trace_encoder(
        self, params: Params, input_ids: jax.Array, segments: jax.Array
    ) -> EncoderTrace:
        raise NotImplementedError

    def trace_decoder(
        self, params: Params, hidden: jax.Array, segments: jax.Array, decoder_input_ids: jax.Array
    ) -> DecoderTrace:
        weights = self._apply(params, hidden, segments, decoder_input_ids, method="cross_attention")
        nothing = jnp.zeros(())
        return DecoderTrace(nothing, weights, nothing)
