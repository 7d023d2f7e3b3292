"""`FastT5`: the serving network, pure functions of the serving parameters.

It equals the training network (`t5jax.model.t5.network`). Layers are unrolled, kernels of one input
are fused with output dimensions first (`t5jax.model.t5.fusion`), and may be quantized. The tricks
are in `t5jax.ops.products` and `t5jax.ops.cached_attention`.

Letters: B inputs, S input tokens, T output tokens, D width, N heads, H head_dim; R rows of a step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import with_logical_constraint

from t5jax.model.cache import KVCache
from t5jax.model.contract import DecoderTrace, EncoderTrace, Params
from t5jax.model.t5 import long_attention
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.layers import activate
from t5jax.model.t5.positions import buckets
from t5jax.ops.attention import attend, attention_weights, bias_positions
from t5jax.ops.cached_attention import attend_cache, attend_kept
from t5jax.ops.masks import SegmentMask
from t5jax.ops.norms import rms_norm
from t5jax.ops.products import product
from t5jax.ops.quantized import Quantized

# A layer's parameters and input -> its output, and values to keep (attention weights, KV cache).
Layer = Callable[[Params, jax.Array], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class FastT5:
    """A T5 for serving; see `t5jax.model.contract.Network`.

    With LongT5's attention, `trace_encoder` divides a global token's weight evenly among the tokens
    that it sums; a weight is 0 where a token does not see another.
    """

    config: T5Config
    dtype: Any

    def encode(self, params: Params, input_ids: jax.Array, segments: jax.Array) -> jax.Array:
        attend = self._encoder_attention(params["encoder"], segments)
        hidden, _ = self._encoder(params, input_ids, lambda p, y: (attend(p, y)[0], None))
        x = self._norm(params["encoder"]["norm"], hidden[-1])
        # Zeros, because a row of padding would depend on the padded length.
        return jnp.where((segments != 0)[..., None], x, jnp.zeros((), x.dtype))

    def decode(
        self, params: Params, hidden: jax.Array, segments: jax.Array, decoder_input_ids: jax.Array
    ) -> jax.Array:
        states, _ = self._teacher_forced(params, hidden, segments, decoder_input_ids)
        logits = self.logits(params, self._norm(params["decoder"]["norm"], states[-1]))
        return with_logical_constraint(logits, ("batch", "length", "vocab"))

    def cross_kv(self, params: Params, hidden: jax.Array) -> Any:
        """Keys [B, N, H, S] and values [B, N, S, H], a tuple of layers each."""
        kept = [self._memory(p, hidden) for p in _layers(params["decoder"])]
        keys = tuple(k.transpose(0, 2, 3, 1) for k, _ in kept)
        return keys, tuple(v.transpose(0, 2, 1, 3) for _, v in kept)

    def init_cache(self, rows: int, length: int, beams: int = 1) -> KVCache:
        c = self.config
        return KVCache.init(
            rows,
            length,
            layers=c.num_decoder_layers,
            heads=c.num_heads,
            width=c.d_kv,
            dtype=self.dtype,
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
        if ancestry is None:
            own = (_positions(cache) <= index)[None, None, None]
        else:
            seen = ancestry[..., None] == jnp.arange(cache.beams)
            own = seen.reshape(*ancestry.shape[:2], -1)[:, None]
        slot = index * cache.beams
        return self._step(params, tokens, cross_kv, mask, cache, slot, index[None], own)

    def decode_hidden_several(
        self,
        params: Params,
        tokens: jax.Array,
        cross_kv: Any,
        mask: jax.Array,
        cache: KVCache,
        index: jax.Array,
    ) -> tuple[jax.Array, KVCache]:
        rows, new = tokens.shape
        queries = index + jnp.arange(new)
        own = (_positions(cache) <= queries[:, None])[None, None]
        tokens = tokens.reshape(-1)
        x, cache = self._step(params, tokens, cross_kv, mask, cache, index, queries, own)
        return x.reshape(rows, new, -1), cache

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        if self.config.scale_decoder_outputs:
            hidden = hidden * jnp.asarray(self.config.d_model**-0.5, hidden.dtype)
        return product(hidden, self.ranking_head(params), dtype=jnp.float32)

    def ranking_head(self, params: Params) -> Any:
        if self.config.tied_head:
            return params["token_embedder"]["embedding"]
        return params["head"]["kernel"]

    def trace_encoder(
        self, params: Params, input_ids: jax.Array, segments: jax.Array
    ) -> EncoderTrace:
        attend = self._encoder_attention(params["encoder"], segments)

        def look(p: Params, y: jax.Array) -> tuple[jax.Array, jax.Array]:
            out, weights = attend(p, y)
            return out, weights()

        hidden, weights = self._encoder(params, input_ids, look)
        return EncoderTrace(jnp.stack(weights, 1), jnp.stack(hidden, 1))

    def trace_decoder(
        self, params: Params, hidden: jax.Array, segments: jax.Array, decoder_input_ids: jax.Array
    ) -> DecoderTrace:
        states, weights = self._teacher_forced(params, hidden, segments, decoder_input_ids)
        own, cross = zip(*([look() for look in layer] for layer in weights), strict=True)
        return DecoderTrace(jnp.stack(own, 1), jnp.stack(cross, 1), jnp.stack(states, 1))

    # The encoder.

    def _encoder(
        self, params: Params, ids: jax.Array, attend: Layer
    ) -> tuple[list[jax.Array], list[Any]]:
        """Hidden states before and after every layer, and what `attend` keeps of each."""

        def layer(p: Params, x: jax.Array) -> tuple[jax.Array, Any]:
            y, kept = attend(p, self._norm(p["pre_attention_layer_norm"], x))
            return self._mlp(p, _add(x, y)), kept

        return _through(layer, _layers(params["encoder"]), self._embed(params, ids))

    def _encoder_attention(self, stack: Params, segments: jax.Array) -> Layer:
        """(layer, normed input) -> the attention's output, and a function that gives weights."""
        if self.config.long:
            return self._long_attention(stack, segments)
        attention = self._attention(stack, SegmentMask(segments, segments))

        def layer(p: Params, y: jax.Array) -> tuple[jax.Array, Any]:
            y, weights = attention(p, *_heads(p["self_attention"]["query_key_value"], y))
            return _out(p["self_attention"], y), weights

        return layer

    def _attention(
        self, stack: Params, mask: SegmentMask
    ) -> Callable[..., tuple[jax.Array, Callable[[], jax.Array]]]:
        """(layer, q, k, v) -> self-attention's output, and a function that gives its weights."""
        length, bidirectional = mask.queries.shape[1], not mask.causal
        bias = self._bias(stack, *bias_positions(length, length), bidirectional=bidirectional)

        def attention(p: Params, q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
            def weights() -> jax.Array:
                at = jnp.arange(length)
                whole = self._bias(stack, at, at, bidirectional=bidirectional)
                return attention_weights(q, k, whole(p), mask.dense())

            return attend(q, k, v, bias(p), mask), weights

        return attention

    def _long_attention(self, stack: Params, segments: jax.Array) -> Layer:
        c = self.config
        side_table = stack["global_relpos_bias"]["rel_embedding"] if c.global_tokens else None
        table = stack["relpos_bias"]["rel_embedding"]
        bias = long_attention.long_bias(c, segments.shape[1], table, side_table)
        places = long_attention.find_reach(c, segments).places

        def attend(p: Params, y: jax.Array) -> tuple[jax.Array, Any]:
            p, side = p["self_attention"], None
            q, k, v = _heads(p["query_key_value"], y)
            if places is not None and bias.side is not None:
                totals = long_attention.sum_blocks(y, places)
                totals = self._norm(p["global_input_layer_norm"], totals)
                kernel = p["query_key_value"][:, 1:]
                keys, values = (x.swapaxes(1, 2) for x in _heads(kernel, totals))
                side = long_attention.Side(keys, values, bias.side, places)
            seen = (bias.local, segments, side)
            out = _out(p, long_attention.attend(q, k, v, *seen))
            return out, lambda: long_attention.dense_weights(q, k, *seen)

        return attend

    # The decoder.

    def _decoder_layer(
        self, p: Params, x: jax.Array, attend: Callable[..., Any], look: Callable[..., Any]
    ) -> tuple[jax.Array, Any]:
        """x [..., D] -> [..., D]: the body of a decoder layer, for all uses.

        `attend(q, k, v)` and `look(q)` are self-attention and cross-attention over [..., N, H], and
        also return values to keep.
        """
        own, cross = p["self_attention"], p["encoder_decoder_attention"]
        y = self._norm(p["pre_self_attention_layer_norm"], x)
        y, kept = attend(*_heads(own["query_key_value"], y))
        x = _add(x, _out(own, y))
        y = self._norm(p["pre_cross_attention_layer_norm"], x)
        y, kept_cross = look(*_heads(cross["query"], y))
        return self._mlp(p, _add(x, _out(cross, y))), (kept, kept_cross)

    def _teacher_forced(
        self, params: Params, encoded: jax.Array, segments: jax.Array, ids: jax.Array
    ) -> tuple[list[jax.Array], list[Any]]:
        """Hidden states before and after every layer, and functions that give its weights."""
        # The start id may be the padding id, so the decoder has no padding mask; causality keeps
        # padding after a sequence out of it.
        ones = jnp.ones_like(ids)
        attention = self._attention(params["decoder"], SegmentMask(ones, ones, causal=True))
        cross = SegmentMask(ones, segments)

        def layer(p: Params, x: jax.Array) -> tuple[jax.Array, Any]:
            keys, values = self._memory(p, encoded)

            def look(q: jax.Array) -> tuple[jax.Array, Any]:
                y = attend(q, keys, values, None, cross)
                return y, lambda: attention_weights(q, keys, None, cross.dense())

            return self._decoder_layer(p, x, functools.partial(attention, p), look)

        return _through(layer, _layers(params["decoder"]), self._embed(params, ids))

    def _step(
        self,
        params: Params,
        tokens: jax.Array,
        cross_kv: Any,
        mask: jax.Array,
        cache: KVCache,
        slot: jax.Array,
        queries: jax.Array,
        own: jax.Array,
    ) -> tuple[jax.Array, KVCache]:
        """K new tokens a row: int[R * K] -> the normed output [R * K, D], and the cache.

        `slot` is the first of their K slots, `queries` int[K or 1] their positions, and `own`
        bool[R or 1, 1, K, slots] the slots that they see.
        """
        bias = self._bias(params["decoder"], queries, _positions(cache), bidirectional=False)
        cross, new = mask[:, None, None], own.shape[2]

        def layer(inputs: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            p, keys, values, *old = inputs

            def attend(*qkv: jax.Array) -> tuple[jax.Array, Any]:
                q, k, v = (y.reshape(-1, new, *y.shape[1:]) for y in qkv)
                y, kept = attend_cache((q, k, v), tuple(old), slot, bias(p), own)
                return y.reshape(qkv[0].shape), kept

            def look(q: jax.Array) -> tuple[jax.Array, None]:
                y = attend_kept(q.reshape(len(keys), -1, *q.shape[1:]), keys, values, None, cross)
                return y.reshape(q.shape), None

            return self._decoder_layer(p, x, attend, look)

        layers = zip(_layers(params["decoder"]), *cross_kv, cache.keys, cache.values, strict=True)
        states, kept = _through(layer, layers, self._embed(params, tokens))
        keys, values = zip(*(new for new, _ in kept), strict=True)
        x = self._norm(params["decoder"]["norm"], states[-1])
        return x, KVCache(keys, values, cache.beams)

    # Parts of a layer.

    def _embed(self, params: Params, ids: jax.Array) -> jax.Array:
        """int[...] -> [..., D]."""
        table = params["token_embedder"]["embedding"]
        if isinstance(table, Quantized):
            return _constrain(table.take(ids, self.dtype))
        # XLA would gather the whole table at each lookup if its columns are sharded too; gathering
        # the columns first costs one exchange.
        table = with_logical_constraint(table.astype(self.dtype), ("vocab", None))
        return _constrain(jnp.take(table, ids, axis=0))

    def _norm(self, p: Params, x: jax.Array) -> jax.Array:
        return rms_norm(x, p["scale"], self.config.layer_norm_epsilon, self.dtype)

    def _mlp(self, p: Params, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D], with the pre-norm and the residual."""
        hidden = product(self._norm(p["pre_mlp_layer_norm"], x), p["mlp"]["wi"])
        parts = [hidden[..., i] for i in range(hidden.shape[-1])]
        return _add(x, product(activate(self.config, *parts), p["mlp"]["wo"]))

    def _memory(self, p: Params, encoded: jax.Array) -> tuple[jax.Array, ...]:
        """[B, S, D] -> the keys and values of a layer's cross-attention, [B, S, N, H]."""
        return _heads(p["encoder_decoder_attention"]["key_value"], encoded)

    def _bias(
        self, stack: Params, queries: jax.Array, keys: jax.Array, *, bidirectional: bool
    ) -> Callable[[Params], jax.Array]:
        """A function from a layer's parameters to its relative bias float32[N, T, S]."""
        found = buckets(self.config, queries, keys, bidirectional=bidirectional)
        if self.config.relative_bias == "per_layer":
            return lambda p: jnp.take(p["relpos_bias"]["rel_embedding"], found, axis=1)
        shared = jnp.take(stack["relpos_bias"]["rel_embedding"], found, axis=1)
        return lambda p: shared


def _layers(stack: Params) -> list[Params]:
    return [stack[f"layers_{i}"] for i in range(sum(k.startswith("layers_") for k in stack))]


def _through(layer: Any, layers: Any, x: jax.Array) -> tuple[list[jax.Array], list[Any]]:
    """Applies `x, kept = layer(p, x)` in turn -> x before and after each layer, and all kept."""
    states, kept = [x], []
    for p in layers:
        x, more = layer(p, x)
        states.append(x)
        kept.append(more)
    return states, kept


def _heads(kernel: Any, x: jax.Array) -> tuple[jax.Array, ...]:
    """Fused kernels [N, M, H, D], x [..., D] -> M arrays [..., N, H]."""
    y = product(x, kernel)
    return tuple(y[..., i, :] for i in range(y.shape[-2]))


def _out(p: Params, y: jax.Array) -> jax.Array:
    """An attention's output: [..., N, H] -> [..., D]."""
    return product(y, p["out"], 2)


def _add(x: jax.Array, y: jax.Array) -> jax.Array:
    """The residual connection."""
    return _constrain(x + y)


def _constrain(x: jax.Array) -> jax.Array:
    """Shards whole sequences between layers."""
    return with_logical_constraint(x, ("batch", "length", "embed")) if x.ndim == 3 else x


def _positions(cache: KVCache) -> jax.Array:
    """The position of each slot."""
    return jnp.repeat(jnp.arange(cache.length), cache.beams)
