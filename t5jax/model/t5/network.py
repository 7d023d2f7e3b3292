"""`T5`: encoder and decoder as four pure methods, `encode`, `decode`, `cross_kv`, `decode_step`.

    hidden = model.apply({"params": params}, input_ids, method="encode")

Layers are stacked and scanned by default: parameters have a leading layer axis, and compile time
does not grow with depth. `T5(config, scan=False)` is the same network written out, over the tree
that `unstack` makes: it compiles longer and runs faster, on a CPU by a seventh in training.
`T5(config, inference=True)` is written out too, over the tree that `for_inference` makes; on one
token at a time it is the fastest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.cache import KVCache
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.layers import (
    CROSS,
    MLP,
    SELF,
    Attention,
    Embedding,
    Head,
    LongAttention,
    RelativeBias,
    RMSNorm,
)
from t5jax.model.t5.long_attention import (
    Layout,
    LongBias,
    find_places,
    local_positions,
    side_positions,
)
from t5jax.ops.attention import causal_mask, dropout, segment_mask

Remat = Literal["none", "full", "dots"]
# [B, T, D] between layers.
ACTIVATION = ("batch", "length", "embed")


def _split(key: jax.Array | None, num: int) -> jax.Array | tuple[None, ...]:
    return (None,) * num if key is None else jax.random.split(key, num)


class Layer(nn.Module):
    """What encoder and decoder layers share: pre-norms, residuals, a bias table where each has."""

    config: T5Config
    dtype: Any
    inference: bool

    def norm(self) -> RMSNorm:
        return RMSNorm(self.config.d_model, self.config.layer_norm_epsilon, self.dtype)

    def attention(
        self, groups: tuple[tuple[str, ...], ...] = SELF, kind: type[Attention] = Attention
    ) -> Attention:
        return kind(self.config, self.dtype, groups, self.inference)

    def feed_forward(self) -> MLP:
        return MLP(self.config, self.dtype, self.inference)

    def add(self, x: jax.Array, y: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The residual connection."""
        y = x + dropout(y, self.config.dropout, key)
        return nn.with_logical_constraint(y, ACTIVATION) if y.ndim == 3 else y


class EncoderLayer(Layer):
    """Self-attention and MLP."""

    def setup(self) -> None:
        if self.config.relative_bias == "per_layer":
            self.relpos_bias = RelativeBias(self.config, bidirectional=True)
        self.pre_attention_layer_norm = self.norm()
        kind = LongAttention if self.config.long else Attention
        self.self_attention: Any = self.attention(kind=kind)
        self.pre_mlp_layer_norm = self.norm()
        self.mlp = self.feed_forward()

    def __call__(
        self,
        x: jax.Array,
        bias: jax.Array | LongBias | None,
        mask: jax.Array | Layout,
        key: jax.Array | None,
    ) -> jax.Array:
        if bias is None:
            positions = jnp.arange(x.shape[1])
            bias = self.relpos_bias(positions, positions)
        keys = _split(key, 4)
        y = self.pre_attention_layer_norm(x)
        if self.config.long:
            y = self.self_attention.encode(y, bias, mask, keys[0])
        else:
            y = self.self_attention(y, None, bias, mask, keys[0])
        x = self.add(x, y, keys[1])
        y = self.mlp(self.pre_mlp_layer_norm(x), keys[2])
        return self.add(x, y, keys[3])


class DecoderLayer(Layer):
    """Causal self-attention, attention to the encoder, MLP."""

    def setup(self) -> None:
        if self.config.relative_bias == "per_layer":
            self.relpos_bias = RelativeBias(self.config, bidirectional=False)
        self.pre_self_attention_layer_norm = self.norm()
        self.self_attention = self.attention()
        self.pre_cross_attention_layer_norm = self.norm()
        self.encoder_decoder_attention = self.attention(CROSS)
        self.pre_mlp_layer_norm = self.norm()
        self.mlp = self.feed_forward()

    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        bias: jax.Array | None,
        self_mask: jax.Array,
        cross_mask: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        if bias is None:
            positions = jnp.arange(x.shape[1])
            bias = self.relpos_bias(positions, positions)
        keys = _split(key, 6)
        y = self.pre_self_attention_layer_norm(x)
        y = self.self_attention(y, None, bias, self_mask, keys[0])
        x = self.add(x, y, keys[1])
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, encoded, None, cross_mask, keys[2])
        x = self.add(x, y, keys[3])
        y = self.mlp(self.pre_mlp_layer_norm(x), keys[4])
        return self.add(x, y, keys[5])

    def look(
        self,
        x: jax.Array,
        encoded: jax.Array,
        bias: jax.Array | None,
        self_mask: jax.Array,
        cross_mask: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """The layer without dropout, and its cross-attention weights float32[B, N, T, S]."""
        if bias is None:
            positions = jnp.arange(x.shape[1])
            bias = self.relpos_bias(positions, positions)
        y = self.pre_self_attention_layer_norm(x)
        x = self.add(x, self.self_attention(y, None, bias, self_mask, None))
        y = self.pre_cross_attention_layer_norm(x)
        weights = self.encoder_decoder_attention.weights(y, encoded, cross_mask)
        x = self.add(x, self.encoder_decoder_attention(y, encoded, None, cross_mask, None))
        return self.add(x, self.mlp(self.pre_mlp_layer_norm(x))), weights

    def cross_kv(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.encoder_decoder_attention.project_memory(encoded)

    def step(
        self,
        x: jax.Array,
        cross_kv: tuple[jax.Array, jax.Array],
        cross_mask: jax.Array,
        cache: tuple[jax.Array, jax.Array],
        slot: jax.Array,
        queries: jax.Array,
        positions: jax.Array,
        bias: jax.Array | None,
        self_mask: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        if bias is None:
            bias = self.relpos_bias(queries, positions)
        y = self.pre_self_attention_layer_norm(x)
        y, cache = self.self_attention.step(y, cache, slot, bias, self_mask)
        x = self.add(x, y)
        y = self.pre_cross_attention_layer_norm(x)
        x = self.add(x, self.encoder_decoder_attention.cross_step(y, cross_kv, cross_mask))
        return self.add(x, self.mlp(self.pre_mlp_layer_norm(x))), cache


class Stack(nn.Module):
    """The layers of one stack, its shared bias table and its last norm."""

    config: T5Config
    dtype: Any
    inference: bool
    remat: Remat
    scan: bool
    layer: type[Layer]
    depth: int

    def setup(self) -> None:
        if self.config.relative_bias == "shared":
            bidirectional = self.layer is EncoderLayer
            self.relpos_bias = RelativeBias(self.config, bidirectional=bidirectional)
            if bidirectional and self.config.global_tokens:
                self.global_relpos_bias = RelativeBias(self.config, bidirectional=True)
        arguments = (self.config, self.dtype, self.inference)
        if self.apart:
            self.layers: Any = [self.layer(*arguments) for _ in range(self.depth)]
        else:
            self.layers = self.layer(*arguments)
        self.norm = RMSNorm(self.config.d_model, self.config.layer_norm_epsilon, self.dtype)

    @property
    def apart(self) -> bool:
        """Whether every layer has a subtree of its own."""
        return self.inference or not self.scan

    def bias(self, queries: jax.Array, keys: jax.Array) -> jax.Array | None:
        """The shared bias, float32[N, T, S]; None where every layer has its own."""
        if self.config.relative_bias == "per_layer":
            return None
        return self.relpos_bias(queries, keys)

    def long_bias(self, length: int) -> LongBias:
        """The bias of LongT5's encoder on inputs of `length`."""
        local = self.relpos_bias(*local_positions(self.config.local_radius + 1))
        if not self.config.global_tokens:
            return LongBias(local)
        places = length // self.config.global_block_size
        return LongBias(local, self.global_relpos_bias(*side_positions(places))[:, 0])

    def fold(self, step: Callable[..., tuple[Any, Any]], carry: Any, *xs: Any) -> tuple[Any, Any]:
        """`carry, y = step(layer, carry, *x)` through the layers -> last carry, all y.

        Each of `xs` is indexed by layer: an array with a leading layer axis, or a tuple. The y
        come back the same way: stacked where the layers are scanned, else in tuples.
        """
        if self.remat != "none":
            saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            step = nn.remat(
                step,
                policy=saved if self.remat == "dots" else None,
                # A loop keeps the recomputation from being merged with the first computation;
                # layers written out need a barrier, which costs a little.
                prevent_cse=self.apart,
            )
        if not self.apart:
            scanned = nn.scan(
                step,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            return scanned(self.layers, carry, *xs)
        outputs = []
        for i, layer in enumerate(self.layers):
            carry, y = step(layer, carry, *(None if x is None else x[i] for x in xs))
            outputs.append(y)
        if all(y is None for y in outputs):
            return carry, None
        return carry, jax.tree.map(lambda *y: y, *outputs)


class T5(nn.Module):
    """An encoder-decoder of the T5 family.

    Attributes:
      config: the architecture.
      dtype: of the computation; norms, softmax and logits are float32 whatever it is. Parameters
        are cast on use.
      inference: layers apart, with fused kernels; `scan` then means nothing.
      remat: what the backward pass recomputes: nothing, whole layers, or all but the products of
        weights with activations ("dots").
      scan: whether one layer is compiled and looped over, or every layer for itself.
    """

    config: T5Config
    dtype: Any = jnp.float32
    inference: bool = False
    remat: Remat = "none"
    scan: bool = True

    def setup(self) -> None:
        config = self.config
        self.token_embedder = Embedding(config, self.dtype, self.inference)
        stack = functools.partial(Stack, config, self.dtype, self.inference, self.remat, self.scan)
        self.encoder = stack(EncoderLayer, config.num_layers)
        if config.encoder_only:
            return
        self.decoder = stack(DecoderLayer, config.num_decoder_layers)
        if not config.tie_word_embeddings:
            self.head = Head(config, self.dtype, self.inference)

    def __call__(
        self,
        input_ids: jax.Array,
        decoder_input_ids: jax.Array,
        segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher-forced logits, float32[B, T, V], of int[B, S] inputs and int[B, T] prefixes.

        `decoder_input_ids` begin with the start id and are one step behind the targets. Segment
        ids (see `t5jax.batch.Batch`) keep packed examples apart; without them every id but
        padding belongs to the row's one example. Dropout is applied when a key is given.
        """
        keys = _split(dropout_key, 2)
        if segment_ids is None:
            segment_ids = self.segments(input_ids)
        hidden = self.encode(input_ids, segment_ids, dropout_key=keys[0])
        return self.decode(
            hidden, segment_ids, decoder_input_ids, decoder_segment_ids, dropout_key=keys[1]
        )

    def segments(self, ids: jax.Array) -> jax.Array:
        """int[B, S] -> int32[B, S]: 1 where there is a token, 0 at padding."""
        return (ids != self.config.pad_token_id).astype(jnp.int32)

    def encode(
        self,
        input_ids: jax.Array,
        segment_ids: jax.Array | None = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """int[B, S] -> hidden states [B, S, D], zero at padding."""
        if segment_ids is None:
            segment_ids = self.segments(input_ids)
        bias: Any
        mask: Any
        if self.config.long:
            bias = self.encoder.long_bias(input_ids.shape[1])
            mask = Layout(segment_ids)
            if self.config.global_tokens:
                places = find_places(segment_ids, self.config.global_block_size)
                mask = Layout(segment_ids, places)
        else:
            positions = jnp.arange(input_ids.shape[1])
            bias = self.encoder.bias(positions, positions)
            mask = segment_mask(segment_ids, segment_ids)
        first, last, inner = _split(dropout_key, 3)

        def step(layer: EncoderLayer, x: jax.Array, key: jax.Array | None) -> Any:
            return layer(x, bias, mask, key), None

        x = self.embed(input_ids, first)
        x, _ = self.encoder.fold(step, x, self.layer_keys(inner, self.config.num_layers))
        x = dropout(self.encoder.norm(x), self.config.dropout, last)
        # A row of nothing but padding has nothing to attend to: zeros give it a defined answer,
        # whatever the width it is padded to.
        return jnp.where((segment_ids != 0)[..., None], x, jnp.zeros((), x.dtype))

    def decode(
        self,
        encoded: jax.Array,
        segment_ids: jax.Array,
        decoder_input_ids: jax.Array,
        decoder_segment_ids: jax.Array | None = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states [B, S, D] with their segments int[B, S], int[B, T] -> float32[B, T, V]."""
        if decoder_segment_ids is None:
            # Id 0 starts the decoder's input, so padding cannot be told from the ids; causality
            # alone keeps what comes after a sequence out of it.
            decoder_segment_ids = jnp.ones_like(decoder_input_ids)
        length = decoder_input_ids.shape[1]
        own = segment_mask(decoder_segment_ids, decoder_segment_ids) & causal_mask(length)
        cross = segment_mask(decoder_segment_ids, segment_ids)
        positions = jnp.arange(length)
        bias = self.decoder.bias(positions, positions)
        first, last, inner = _split(dropout_key, 3)

        def step(layer: DecoderLayer, x: jax.Array, key: jax.Array | None) -> Any:
            return layer(x, encoded, bias, own, cross, key), None

        x = self.embed(decoder_input_ids, first)
        x, _ = self.decoder.fold(step, x, self.layer_keys(inner, self.config.num_decoder_layers))
        x = dropout(self.decoder.norm(x), self.config.dropout, last)
        return nn.with_logical_constraint(self.logits(x), ("batch", "length", "vocab"))

    def cross_attention(
        self, encoded: jax.Array, segment_ids: jax.Array, decoder_input_ids: jax.Array
    ) -> jax.Array:
        """Where each token looks in its input: float32[B, L, N, T, S], softmax over S.

        Of hidden states [B, S, D], segments int[B, S] and teacher-forced int[B, T]; L layers.
        """
        length = decoder_input_ids.shape[1]
        positions = jnp.arange(length)
        bias = self.decoder.bias(positions, positions)
        cross = segment_mask(jnp.ones_like(decoder_input_ids), segment_ids)

        def step(layer: DecoderLayer, x: jax.Array) -> Any:
            return layer.look(x, encoded, bias, causal_mask(length), cross)

        _, weights = self.decoder.fold(step, self.embed(decoder_input_ids))
        return jnp.stack(weights, 1) if self.inference else weights.swapaxes(0, 1)

    def cross_kv(self, encoded: jax.Array) -> tuple[Any, Any]:
        """[B, S, D] -> every layer's cross-attention keys [B, N, H, S] and values [B, N, S, H]."""

        def step(layer: DecoderLayer, carry: None) -> Any:
            return carry, layer.cross_kv(encoded)

        return self.decoder.fold(step, None)[1]

    def decode_step(
        self,
        tokens: jax.Array,
        cross_kv: tuple[Any, Any],
        encoder_mask: jax.Array,
        cache: KVCache,
        index: jax.Array,
        ancestry: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Logits after one more token a row, and the cache that holds it.

        Args:
          tokens: int[B*G]; G rows in a run share one input (samples, beams).
          cross_kv: from `cross_kv`, for B inputs.
          encoder_mask: bool[B, S], True at tokens.
          cache: of B*G rows, or of B rows of G beams.
          index: int32 scalar, the position that `tokens` have; at most `cache.length - 1`.
          ancestry: for beams, int32[B, G, T]: whose slot holds a beam's token of each position up
            to `index`, its own there; -1 beyond.

        Returns:
          float32[B*G, V] and the new cache.
        """
        x, cache = self.decode_step_hidden(tokens, cross_kv, encoder_mask, cache, index, ancestry)
        return self.logits(x), cache

    def decode_step_hidden(
        self,
        tokens: jax.Array,
        cross_kv: tuple[Any, Any],
        encoder_mask: jax.Array,
        cache: KVCache,
        index: jax.Array,
        ancestry: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """`decode_step` without the head: the decoder's normed output [B*G, D] for logits."""
        positions = jnp.repeat(jnp.arange(cache.length), cache.beams)
        if ancestry is None:
            own = (positions <= index)[None, None, None]
        else:
            seen = ancestry[..., None] == jnp.arange(cache.beams)
            own = seen.reshape(*ancestry.shape[:2], -1)[:, None]
        slot = index * cache.beams
        return self.step_hidden(tokens, cross_kv, encoder_mask, cache, slot, index[None], own)

    def decode_steps(
        self,
        tokens: jax.Array,
        cross_kv: tuple[Any, Any],
        encoder_mask: jax.Array,
        cache: KVCache,
        index: jax.Array,
    ) -> tuple[jax.Array, KVCache]:
        """The normed output after each of K more tokens a row, in one pass; see `decode_step`.

        int[B, K], the first at position `index` -> [B, K, D] and the new cache, which is one
        without beams.
        """
        rows, new = tokens.shape
        queries = index + jnp.arange(new)
        own = (jnp.arange(cache.length) <= queries[:, None])[None, None]
        x, cache = self.step_hidden(
            tokens.reshape(-1), cross_kv, encoder_mask, cache, index, queries, own
        )
        return x.reshape(rows, new, -1), cache

    def step_hidden(
        self,
        tokens: jax.Array,
        cross_kv: tuple[Any, Any],
        encoder_mask: jax.Array,
        cache: KVCache,
        slot: jax.Array,
        queries: jax.Array,
        own: jax.Array,
    ) -> tuple[jax.Array, KVCache]:
        """The decoder's normed output for new tokens, K a row: int[B*K] -> [B*K, D].

        They go to the K slots of the cache from `slot` on, have the positions `queries` int[K or 1]
        and see the slots `own`, bool[B or 1, 1, K, slots].
        """
        positions = jnp.repeat(jnp.arange(cache.length), cache.beams)
        bias = self.decoder.bias(queries, positions)
        cross = encoder_mask[:, None, None]

        def step(layer: DecoderLayer, x: jax.Array, *args: Any) -> Any:
            keys, values, *old = args
            where = (slot, queries, positions, bias, own)
            return layer.step(x, (keys, values), cross, tuple(old), *where)

        x = self.embed(tokens)
        x, (keys, values) = self.decoder.fold(step, x, *cross_kv, cache.keys, cache.values)
        return self.decoder.norm(x), KVCache(keys, values, cache.beams)

    def embed(self, ids: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """int[B, T] -> [B, T, D], or int[B] -> [B, D]."""
        x = dropout(self.token_embedder(ids), self.config.dropout, key)
        return nn.with_logical_constraint(x, ACTIVATION) if x.ndim == 3 else x

    def logits(self, x: jax.Array) -> jax.Array:
        """The decoder's normed output [..., D] -> float32[..., V]."""
        if self.config.scale_decoder_outputs:
            x = x * jnp.asarray(self.config.d_model**-0.5, x.dtype)
        return self.token_embedder.attend(x) if self.config.tie_word_embeddings else self.head(x)

    def layer_keys(self, key: jax.Array | None, depth: int) -> jax.Array | None:
        """One dropout key a layer."""
        return None if key is None else jax.random.split(key, depth)
