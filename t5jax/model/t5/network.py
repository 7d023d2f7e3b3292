"""`T5`: the training network, as three pure methods: the call, `encode` and `decode`.

    hidden = model.apply({"params": params}, input_ids, method="encode")

The serving network, which decodes step by step, is `t5jax.model.t5.fast.FastT5`. Letters are those
of `t5jax.model.t5.layers`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.parameters import define
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.layers import (
    DecoderLayer,
    Embedding,
    EncoderLayer,
    Head,
    Layer,
    RelativeBias,
    RMSNorm,
    constrain,
    split,
)
from t5jax.model.t5.long_attention import find_reach, long_bias
from t5jax.model.t5.positions import buckets
from t5jax.ops.attention import causal_mask, segment_mask
from t5jax.ops.dropout import dropout

Remat = Literal["none", "full", "dots"]


class Stack(nn.Module):
    """The layers of one stack, the bias table that they share, and the last norm."""

    config: T5Config
    dtype: Any
    remat: Remat
    scan: bool

    layer: ClassVar[type[Layer]]
    bidirectional: ClassVar[bool]

    @property
    def depth(self) -> int:
        raise NotImplementedError

    def setup(self) -> None:
        if self.config.relative_bias == "shared":
            self.relpos_bias = RelativeBias(self.config)
        if self.scan:
            self.layers: Any = self.layer(self.config, self.dtype)
        else:
            self.layers = [self.layer(self.config, self.dtype) for _ in range(self.depth)]
        self.norm = RMSNorm(self.config, self.dtype)

    def __call__(self, x: jax.Array, key: jax.Array | None, *seen: Any) -> jax.Array:
        """[B, T, D] -> [B, T, D], normed; `seen` is what all layers are given after their bias."""
        first, last, inner = split(key, 3)
        x = constrain(dropout(x, self.config.dropout, first))
        shared, found = self.biases(x.shape[1])

        def step(layer: Any, x: jax.Array, key: jax.Array | None) -> tuple[jax.Array, None]:
            bias = layer.relpos_bias(found) if shared is None else shared
            return layer(x, bias, key, *seen), None

        x = self.fold(step, x, None if inner is None else jax.random.split(inner, self.depth))
        return dropout(self.norm(x), self.config.dropout, last)

    def biases(self, length: int) -> tuple[Any, jax.Array | None]:
        """The bias of all layers, or the buckets int32[T, T] that each looks up in its table."""
        positions = jnp.arange(length)
        found = buckets(self.config, positions, positions, bidirectional=self.bidirectional)
        if self.config.relative_bias == "per_layer":
            return None, found
        return self.relpos_bias(found), None

    def fold(self, step: Any, x: Any, keys: jax.Array | None) -> Any:
        """`x, _ = step(layer, x, key)` through the layers, stacked or apart."""
        if self.remat != "none":
            saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            step = nn.remat(
                step,
                policy=saved if self.remat == "dots" else None,
                # A loop keeps the recomputation from being merged with the first computation;
                # layers written out need a barrier, which costs a little.
                prevent_cse=not self.scan,
            )
        if self.scan:
            scanned = nn.scan(
                step,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            return scanned(self.layers, x, keys)[0]
        for i, layer in enumerate(self.layers):
            x, _ = step(layer, x, None if keys is None else keys[i])
        return x

    def define(self) -> None:
        """Makes all parameters."""

        def step(layer: Any, *_: Any) -> tuple[None, None]:
            define(layer)
            return None, None

        self.fold(step, None, None)
        define(self, skip="layers")


class Encoder(Stack):
    """Tokens see all of their segment."""

    layer = EncoderLayer
    bidirectional = True

    @property
    def depth(self) -> int:
        return self.config.num_layers

    def mask(self, segment_ids: jax.Array) -> Any:
        """Who may see whom, of int[B, S]."""
        return segment_mask(segment_ids, segment_ids)


class LongEncoder(Encoder):
    """Tokens see their neighbours, and perhaps sums of blocks."""

    def setup(self) -> None:
        super().setup()
        if self.config.global_tokens:
            self.global_relpos_bias = RelativeBias(self.config)

    def biases(self, length: int) -> tuple[Any, None]:
        side = self.global_relpos_bias.rel_embedding if self.config.global_tokens else None
        return long_bias(self.config, length, self.relpos_bias.rel_embedding, side), None

    def mask(self, segment_ids: jax.Array) -> Any:
        return find_reach(self.config, segment_ids)


class Decoder(Stack):
    """Tokens see those before them, and the encoder's."""

    layer = DecoderLayer
    bidirectional = False

    @property
    def depth(self) -> int:
        return self.config.num_decoder_layers


class T5(nn.Module):
    """An encoder-decoder of the T5 family.

    Attributes:
      config: the architecture.
      dtype: of the computation; norms, softmax and logits are float32 whatever it is. Parameters
        are cast on use.
      remat: what the backward pass recomputes: nothing, whole layers, or all but the products of
        weights with activations ("dots").
      scan: whether layers are stacked, and one is compiled and looped over; else they are written
        out, over the tree of `t5jax.model.parameters.unstack`. That compiles longer and runs
        faster, on a CPU by a seventh.
    """

    config: T5Config
    dtype: Any = jnp.float32
    remat: Remat = "none"
    scan: bool = True

    def setup(self) -> None:
        config = self.config
        self.token_embedder = Embedding(config, self.dtype)
        stack = (config, self.dtype, self.remat, self.scan)
        self.encoder = (LongEncoder if config.long else Encoder)(*stack)
        if config.encoder_only:
            return
        self.decoder = Decoder(*stack)
        if not config.tie_word_embeddings:
            self.head = Head(config, self.dtype)

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
        keys = split(dropout_key, 2)
        if segment_ids is None:
            segment_ids = self.segments(input_ids)
        hidden = self.encode(input_ids, segment_ids, dropout_key=keys[0])
        return self.decode(
            hidden, segment_ids, decoder_input_ids, decoder_segment_ids, dropout_key=keys[1]
        )

    def define(self) -> None:
        """Makes all parameters, and computes nothing."""
        define(self.token_embedder)
        self.encoder.define()
        if not self.config.encoder_only:
            self.decoder.define()
            if not self.config.tie_word_embeddings:
                define(self.head)

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
        mask = self.encoder.mask(segment_ids)
        x = self.encoder(self.token_embedder(input_ids), dropout_key, mask)
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
        own = segment_mask(decoder_segment_ids, decoder_segment_ids)
        own &= causal_mask(decoder_input_ids.shape[1])
        cross = segment_mask(decoder_segment_ids, segment_ids)
        x = self.token_embedder(decoder_input_ids)
        x = self.decoder(x, dropout_key, own, encoded, cross)
        return nn.with_logical_constraint(self.logits(x), ("batch", "length", "vocab"))

    def logits(self, x: jax.Array) -> jax.Array:
        """The decoder's normed output [..., D] -> float32[..., V]."""
        if self.config.scale_decoder_outputs:
            x = x * jnp.asarray(self.config.d_model**-0.5, x.dtype)
        return self.token_embedder.attend(x) if self.config.tie_word_embeddings else self.head(x)
