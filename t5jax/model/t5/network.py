"""`T5`: the training network, as three pure methods: the call, `encode` and `decode`.

    hidden = model.apply({"params": params}, input_ids, method="encode")

The serving network, which decodes step by step, is `t5jax.model.t5.fast.FastT5`. Letters are those
of `t5jax.model.t5.layers`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.parameters import define
from t5jax.model.stacks import Key, Remat, split
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.layers import Decoder, Embedding, Encoder, Head
from t5jax.model.t5.long_layers import LongEncoder
from t5jax.ops.masks import SegmentMask


class T5(nn.Module):
    """An encoder-decoder of the T5 family.

    Attributes:
      config: the architecture.
      dtype: compute dtype. Parameters are cast on use; norms, softmax and logits are float32.
      remat: the backward pass recomputes nothing, whole layers, or all but the products of weights
        with activations ("dots").
      scan: scan over stacked layers. False: unroll layers, over the tree of `unstack`: slower to
        compile, and a seventh faster on a CPU.
    """

    config: T5Config
    dtype: Any = jnp.float32
    remat: Remat = "none"
    scan: bool = True

    def setup(self) -> None:
        config = self.config
        self.token_embedder = Embedding(config, self.dtype)
        options = (config, self.dtype, self.remat, self.scan)
        self.encoder = (LongEncoder if config.long else Encoder)(*options, config.num_layers)
        if config.encoder_only:
            return
        self.decoder = Decoder(*options, config.num_decoder_layers)
        if not config.tie_word_embeddings:
            self.head = Head(config, self.dtype)

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
        (`t5jax.batch.Batch`) separate packed examples; by default a row is one example. Dropout
        needs a key.
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
        if not self.config.encoder_only:
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
        mask = self.encoder.mask(segment_ids)
        x = self.encoder(self.token_embedder(input_ids), dropout_key, mask)
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
        x = self.decoder(self.token_embedder(decoder_input_ids), dropout_key, own, encoded, cross)
        return nn.with_logical_constraint(self.logits(x), ("batch", "length", "vocab"))

    def logits(self, x: jax.Array) -> jax.Array:
        """The decoder's normed output [..., D] -> float32[..., V]."""
        if self.config.scale_decoder_outputs:
            x = x * jnp.asarray(self.config.d_model**-0.5, x.dtype)
        return self.token_embedder.attend(x) if self.config.tie_word_embeddings else self.head(x)
