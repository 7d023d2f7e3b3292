"""`Bart`: the training network, as three pure methods: the call, `encode` and `decode`.

    hidden = model.apply({"params": params}, input_ids, method="encode")

The serving network is `t5jax.model.bart.fast.FastBart`. Letters are those of
`t5jax.model.bart.layers`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.bart.config import BartConfig
from t5jax.model.bart.layers import Decoder, Embedding, Encoder, Head
from t5jax.model.parameters import define
from t5jax.model.stacks import Key, Remat, split
from t5jax.ops.masks import SegmentMask


class Bart(nn.Module):
    """An encoder-decoder with BART's layers.

    Attributes:
      config: the architecture.
      dtype: compute dtype. Parameters are cast on use; norms, softmax and logits are float32.
      remat: the backward pass recomputes nothing, whole layers, or all but the products of weights
        with activations ("dots").
      scan: scan over stacked layers. False: unroll layers, over the tree of `unstack`: slower to
        compile, and faster on a CPU.
    """

    config: BartConfig
    dtype: Any = jnp.float32
    remat: Remat = "none"
    scan: bool = True

    def setup(self) -> None:
        self.token_embedder = Embedding(self.config, self.dtype)
        options = (self.config, self.dtype, self.remat, self.scan)
        self.encoder = Encoder(*options)
        self.decoder = Decoder(*options)
        if self.config.logits_bias:
            self.head = Head(self.config)

    def __call__(
        self,
        input_ids: jax.Array,
        decoder_input_ids: jax.Array,
        segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        *,
        dropout_key: Key = None,
    ) -> jax.Array:
        """int[B, S] inputs, int[B, T] decoder inputs -> teacher-forced logits float32[B, T, V].

        `decoder_input_ids` are the targets shifted right, beginning with the start id. Segment ids
        (`t5jax.batch.Batch`) separate packed examples, whose positions begin anew; by default a row
        is one example. Dropout needs a key. A key of attention is dropped for all queries alike.
        """
        keys = split(dropout_key, 2)
        if segment_ids is None:
            segment_ids = self.segments(input_ids)
        hidden = self.encode(input_ids, segment_ids, dropout_key=keys[0])
        return self.decode(
            hidden, segment_ids, decoder_input_ids, decoder_segment_ids, dropout_key=keys[1]
        )

    def define(self) -> None:
        """Makes all parameters."""
        self.encoder.define()
        self.decoder.define()
        define(self, "encoder", "decoder")

    def segments(self, ids: jax.Array) -> jax.Array:
        """int[B, S] -> int32[B, S]: 1 where there is a token, 0 at padding."""
        return (ids != self.config.pad_token_id).astype(jnp.int32)

    def encode(
        self, input_ids: jax.Array, segment_ids: jax.Array | None = None, *, dropout_key: Key = None
    ) -> jax.Array:
        """int[B, S] -> hidden states [B, S, D], zero at padding."""
        if segment_ids is None:
            segment_ids = self.segments(input_ids)
        mask = SegmentMask(segment_ids, segment_ids)
        x = self.encoder(self.token_embedder(input_ids), segment_ids, dropout_key, mask)
        # Zeros, because a row of padding would depend on the padded length.
        return jnp.where((segment_ids != 0)[..., None], x, jnp.zeros((), x.dtype))

    def decode(
        self,
        encoded: jax.Array,
        segment_ids: jax.Array,
        decoder_input_ids: jax.Array,
        decoder_segment_ids: jax.Array | None = None,
        *,
        dropout_key: Key = None,
    ) -> jax.Array:
        """Hidden states [B, S, D] with their segments int[B, S], int[B, T] -> float32[B, T, V]."""
        if decoder_segment_ids is None:
            # The start id may be the padding id, so the decoder has no padding mask; causality
            # keeps padding after a sequence out of it.
            decoder_segment_ids = jnp.ones_like(decoder_input_ids)
        own = SegmentMask(decoder_segment_ids, decoder_segment_ids, causal=True)
        cross = SegmentMask(decoder_segment_ids, segment_ids)
        x = self.token_embedder(decoder_input_ids)
        x = self.decoder(x, decoder_segment_ids, dropout_key, own, encoded, cross)
        logits = self.token_embedder.attend(x)
        if self.config.logits_bias:
            logits = self.head(logits)
        return nn.with_logical_constraint(logits, ("batch", "length", "vocab"))
