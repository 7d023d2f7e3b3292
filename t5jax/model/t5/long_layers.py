"""LongT5's encoder for training."""

from __future__ import annotations

from typing import Any

import jax

from t5jax.model.t5 import long_attention
from t5jax.model.t5.layers import Attention, Encoder, EncoderLayer, Key, RelativeBias, RMSNorm
from t5jax.ops.gradients import project


class LongAttention(Attention):
    """LongT5's encoder self-attention: the same projections, and a norm of global tokens."""

    def setup(self) -> None:
        super().setup()
        if self.config.global_tokens:
            self.global_input_layer_norm = RMSNorm(self.config, self.dtype)

    def __call__(
        self, x: jax.Array, memory: jax.Array, bias: Any, mask: Any, key: Key
    ) -> jax.Array:
        """x [B, S, D], which is also `memory` -> [B, S, D]. `bias`: `LongBias`; `mask`: `Reach`."""
        query, *into = (w.astype(self.dtype) for w in (self.query, self.key, self.value))
        side = None
        if mask.places is not None:
            totals = self.global_input_layer_norm(long_attention.sum_blocks(memory, mask.places))
            keys, values = (project(totals, w).swapaxes(1, 2) for w in into)
            side = long_attention.Side(keys, values, bias.side, mask.places)
        q, k, v = project(x, query), *(project(memory, w) for w in into)
        y = long_attention.attend(
            q,
            k,
            v,
            bias.local,
            mask.segments,
            side,
            dropout_rate=self.config.dropout,
            dropout_key=key,
        )
        return project(y, self.out.astype(self.dtype), 2)


class LongEncoderLayer(EncoderLayer):
    kind = LongAttention


class LongEncoder(Encoder):
    """LongT5: tokens see neighbours, and global tokens if configured."""

    layer = LongEncoderLayer

    def setup(self) -> None:
        super().setup()
        if self.config.global_tokens:
            self.global_relpos_bias = RelativeBias(self.config)

    def biases(self, length: int) -> tuple[Any, None]:
        side = self.global_relpos_bias.rel_embedding if self.config.global_tokens else None
        table = self.relpos_bias.rel_embedding
        return long_attention.long_bias(self.config, length, table, side), None

    def mask(self, segment_ids: jax.Array) -> Any:
        return long_attention.find_reach(self.config, segment_ids)
