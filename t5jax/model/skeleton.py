"""`Skeleton`: what serving networks of encoder-decoders have in common.

An encoder layer is self-attention and an MLP, a decoder layer self-attention, cross-attention and
an MLP. Families differ in norms, positions, biases and activations, which are methods here.
Layers are unrolled, and kernels of one input are fused with output dimensions first
(`t5jax.model.layout`). The tricks are in `t5jax.ops.products` and `t5jax.ops.cached_attention`.

Letters: B inputs, S input tokens, T output tokens, D width, N heads, H head_dim; R rows of a step,
K new tokens of a row.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import with_logical_constraint

from t5jax.model.cache import KVCache
from t5jax.model.contract import DecoderTrace, EncoderTrace, Params
from t5jax.ops.attention import attend, attention_weights, bias_positions
from t5jax.ops.cached_attention import attend_cache, attend_kept
from t5jax.ops.masks import SegmentMask
from t5jax.ops.products import product
from t5jax.ops.quantized import Quantized

# A layer's parameters and input -> its output, and values to keep (attention weights, KV cache).
Layer = Callable[[Params, jax.Array], tuple[jax.Array, Any]]
# A layer's parameters -> its bias float32[N, T, S] of attention; None: no bias.
Bias = Callable[[Params], jax.Array | None]


@dataclasses.dataclass(frozen=True)
class Skeleton(abc.ABC):
    """A serving network; see `t5jax.model.contract.Network`."""

    config: Any
    dtype: Any

    # What families differ in.

    @abc.abstractmethod
    def embed_inputs(self, params: Params, ids: jax.Array, segments: jax.Array) -> jax.Array:
        """int[B, S] -> the encoder's first hidden states [B, S, D]."""

    @abc.abstractmethod
    def embed_targets(
        self, params: Params, ids: jax.Array, positions: jax.Array, room: int
    ) -> jax.Array:
        """int[R, K] at positions int[K] or int[1] -> the decoder's first hidden states [R, K, D].

        Positions from `room` on are not in use; what they give is finite.
        """

    @abc.abstractmethod
    def residual(
        self, p: Params, kind: str, x: jax.Array, function: Callable[[jax.Array], Any]
    ) -> tuple[jax.Array, Any]:
        """x [..., D] with what `function` adds, and its norm; and what `function` keeps.

        Args:
          p: the layer's parameters.
          kind: "attention" (the encoder's), "self_attention", "cross_attention", or "mlp".
          x: the residual stream.
          function: [..., D] -> [..., D], and values to keep.
        """

    @abc.abstractmethod
    def finish(self, stack: Params, x: jax.Array) -> jax.Array:
        """The last layer's output [..., D] -> the stack's."""

    @abc.abstractmethod
    def mlp(self, p: Params, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D], without norm and residual."""

    @abc.abstractmethod
    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """The decoder's output [..., D] -> float32[..., V]."""

    @property
    @abc.abstractmethod
    def cached(self) -> tuple[int, int, int]:
        """Layers, N and H of the decoder's self-attention."""

    def bias(
        self, stack: Params, queries: jax.Array, keys: jax.Array, *, bidirectional: bool
    ) -> Bias:
        """The bias of attention from positions int[T] to positions int[S]."""
        return lambda p: None

    def scaled(self, q: jax.Array) -> jax.Array:
        """Queries [..., N, H] as they are multiplied with keys."""
        return q

    # The network.

    def encode(self, params: Params, input_ids: jax.Array, segments: jax.Array) -> jax.Array:
        attend = self.encoder_attention(params["encoder"], segments)

        def forget(p: Params, y: jax.Array) -> tuple[jax.Array, None]:
            return attend(p, y)[0], None

        hidden, _ = self._encoder(params, input_ids, segments, forget)
        x = self.finish(params["encoder"], hidden[-1])
        # Zeros, because a row of padding would depend on the padded length.
        return jnp.where((segments != 0)[..., None], x, jnp.zeros((), x.dtype))

    def decode(
        self, params: Params, hidden: jax.Array, segments: jax.Array, decoder_input_ids: jax.Array
    ) -> jax.Array:
        states, _ = self._teacher_forced(params, hidden, segments, decoder_input_ids)
        logits = self.logits(params, self.finish(params["decoder"], states[-1]))
        return with_logical_constraint(logits, ("batch", "length", "vocab"))

    def cross_kv(self, params: Params, hidden: jax.Array) -> Any:
        """Keys [B, N, H, S] and values [B, N, S, H], a tuple of layers each."""
        kept = [self._memory(p, hidden) for p in layers_of(params["decoder"])]
        keys = tuple(k.transpose(0, 2, 3, 1) for k, _ in kept)
        return keys, tuple(v.transpose(0, 2, 1, 3) for _, v in kept)

    def init_cache(self, rows: int, length: int, beams: int = 1) -> KVCache:
        layers, heads, width = self.cached
        return KVCache.init(
            rows, length, layers=layers, heads=heads, width=width, dtype=self.dtype, beams=beams
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

    def trace_encoder(
        self, params: Params, input_ids: jax.Array, segments: jax.Array
    ) -> EncoderTrace:
        attend = self.encoder_attention(params["encoder"], segments)

        def look(p: Params, y: jax.Array) -> tuple[jax.Array, jax.Array]:
            out, weights = attend(p, y)
            return out, weights()

        hidden, weights = self._encoder(params, input_ids, segments, look)
        return EncoderTrace(jnp.stack(weights, 1), jnp.stack(hidden, 1))

    def trace_decoder(
        self, params: Params, hidden: jax.Array, segments: jax.Array, decoder_input_ids: jax.Array
    ) -> DecoderTrace:
        states, weights = self._teacher_forced(params, hidden, segments, decoder_input_ids)
        own, cross = zip(*([look() for look in layer] for layer in weights), strict=True)
        return DecoderTrace(jnp.stack(own, 1), jnp.stack(cross, 1), jnp.stack(states, 1))

    # The encoder.

    def _encoder(
        self, params: Params, ids: jax.Array, segments: jax.Array, attend: Layer
    ) -> tuple[list[jax.Array], list[Any]]:
        """Hidden states before and after every layer, and what `attend` keeps of each."""

        def layer(p: Params, x: jax.Array) -> tuple[jax.Array, Any]:
            x, kept = self._residual(p, "attention", x, functools.partial(attend, p))
            return self._with_mlp(p, x), kept

        x = constrain(self.embed_inputs(params, ids, segments))
        return _through(layer, layers_of(params["encoder"]), x)

    def encoder_attention(self, stack: Params, segments: jax.Array) -> Layer:
        """(layer, input) -> the attention's output, and a function that gives its weights."""
        attention = self._attention(stack, SegmentMask(segments, segments))

        def layer(p: Params, y: jax.Array) -> tuple[jax.Array, Any]:
            y, weights = attention(p, *heads(p["self_attention"], "query_key_value", y))
            return out_of_heads(p["self_attention"], y), weights

        return layer

    def _attention(
        self, stack: Params, mask: SegmentMask
    ) -> Callable[..., tuple[jax.Array, Callable[[], jax.Array]]]:
        """(layer, q, k, v) -> self-attention's output, and a function that gives its weights."""
        length, bidirectional = mask.queries.shape[1], not mask.causal
        bias = self.bias(stack, *bias_positions(length, length), bidirectional=bidirectional)

        def attention(p: Params, q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
            q = self.scaled(q)

            def weights() -> jax.Array:
                at = jnp.arange(length)
                whole = self.bias(stack, at, at, bidirectional=bidirectional)
                return attention_weights(q, k, whole(p), mask.dense())

            return attend(q, k, v, bias(p), mask), weights

        return attention

    # The decoder.

    def _decoder_layer(
        self, p: Params, x: jax.Array, attend: Callable[..., Any], look: Callable[..., Any]
    ) -> tuple[jax.Array, Any]:
        """x [..., D] -> [..., D]: the body of a decoder layer, for all uses.

        `attend(q, k, v)` and `look(q)` are self-attention and cross-attention over [..., N, H], and
        also return values to keep.
        """

        def to_itself(y: jax.Array) -> tuple[jax.Array, Any]:
            y, kept = attend(*heads(p["self_attention"], "query_key_value", y))
            return out_of_heads(p["self_attention"], y), kept

        def to_the_input(y: jax.Array) -> tuple[jax.Array, Any]:
            (q,) = heads(p["encoder_decoder_attention"], "query", y)
            y, kept = look(self.scaled(q))
            return out_of_heads(p["encoder_decoder_attention"], y), kept

        x, kept = self._residual(p, "self_attention", x, to_itself)
        x, kept_cross = self._residual(p, "cross_attention", x, to_the_input)
        return self._with_mlp(p, x), (kept, kept_cross)

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

        x = constrain(self.embed_targets(params, ids, jnp.arange(ids.shape[1]), ids.shape[1]))
        return _through(layer, layers_of(params["decoder"]), x)

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
        """K new tokens a row: int[R * K] -> the output [R * K, D], and the cache.

        `slot` is the first of their K slots, `queries` int[K or 1] their positions, and `own`
        bool[R or 1, 1, K, slots] the slots that they see.
        """
        bias = self.bias(params["decoder"], queries, _positions(cache), bidirectional=False)
        cross, new = mask[:, None, None], own.shape[2]

        def layer(inputs: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            p, keys, values, *old = inputs

            def attend(*qkv: jax.Array) -> tuple[jax.Array, Any]:
                q, k, v = (y.reshape(-1, new, *y.shape[1:]) for y in qkv)
                y, kept = attend_cache((self.scaled(q), k, v), tuple(old), slot, bias(p), own)
                return y.reshape(qkv[0].shape), kept

            def look(q: jax.Array) -> tuple[jax.Array, None]:
                y = attend_kept(q.reshape(len(keys), -1, *q.shape[1:]), keys, values, None, cross)
                return y.reshape(q.shape), None

            return self._decoder_layer(p, x, attend, look)

        layers = zip(
            layers_of(params["decoder"]), *cross_kv, cache.keys, cache.values, strict=True
        )  # fmt: skip
        x = self.embed_targets(params, tokens.reshape(-1, len(queries)), queries, cache.length)
        states, kept = _through(layer, layers, x.reshape(len(tokens), -1))
        keys, values = zip(*(new for new, _ in kept), strict=True)
        return self.finish(params["decoder"], states[-1]), KVCache(keys, values, cache.beams)

    # Parts of a layer.

    def _with_mlp(self, p: Params, x: jax.Array) -> jax.Array:
        return self._residual(p, "mlp", x, lambda y: (self.mlp(p["mlp"], y), None))[0]

    def _residual(self, p: Params, kind: str, x: jax.Array, function: Any) -> tuple[jax.Array, Any]:
        x, kept = self.residual(p, kind, x, function)
        return constrain(x), kept

    def _memory(self, p: Params, encoded: jax.Array) -> tuple[jax.Array, ...]:
        """[B, S, D] -> the keys and values of a layer's cross-attention, [B, S, N, H]."""
        return heads(p["encoder_decoder_attention"], "key_value", encoded)

    def look_up(self, table: Any, ids: jax.Array) -> jax.Array:
        """Rows of an embedding table [V, D], plain or quantized: int[...] -> [..., D]."""
        if isinstance(table, Quantized):
            return table.take(ids, self.dtype)
        # XLA would gather the whole table at each lookup if its columns are sharded too; gathering
        # the columns first costs one exchange.
        table = with_logical_constraint(table.astype(self.dtype), ("vocab", None))
        return jnp.take(table, ids, axis=0)


def layers_of(stack: Params) -> list[Params]:
    """The parameters of a stack's layers."""
    return [stack[f"layers_{i}"] for i in range(sum(k.startswith("layers_") for k in stack))]


def _through(layer: Any, layers: Any, x: jax.Array) -> tuple[list[jax.Array], list[Any]]:
    """Applies `x, kept = layer(p, x)` in turn -> x before and after each layer, and all kept."""
    states, kept = [x], []
    for p in layers:
        x, more = layer(p, x)
        states.append(x)
        kept.append(more)
    return states, kept


def heads(p: Params, kernel: str, x: jax.Array) -> tuple[jax.Array, ...]:
    """A fused kernel [N, M, H, D] and its bias, if any; x [..., D] -> M arrays [..., N, H]."""
    y = with_bias(product(x, p[kernel]), p, f"{kernel}_bias")
    return tuple(y[..., i, :] for i in range(y.shape[-2]))


def out_of_heads(p: Params, y: jax.Array) -> jax.Array:
    """An attention's output: [..., N, H] -> [..., D]."""
    return with_bias(product(y, p["out"], 2), p, "out_bias")


def with_bias(x: jax.Array, p: Params, name: str) -> jax.Array:
    """x with a bias of its last dimensions, if the parameters have it."""
    return x + p[name].astype(x.dtype) if name in p else x


def constrain(x: jax.Array) -> jax.Array:
    """Shards whole sequences between layers."""
    return with_logical_constraint(x, ("batch", "length", "embed")) if x.ndim == 3 else x


def _positions(cache: KVCache) -> jax.Array:
    """The position of each slot."""
    return jnp.repeat(jnp.arange(cache.length), cache.beams)
