"""The parts of the training network: norm, embedding, relative bias, attention, MLP, layers.

Modules own parameters, float32 with logical axis names; `t5jax.sharding` maps those to a mesh.
Initial standard deviations are T5X's (Raffel et al. 2020; Mesh TensorFlow): with them logits need
no 1/sqrt(d) anywhere.

Letters: B batch, T query, S key/value, D model, N heads, H head_dim, F mlp, V vocab.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.t5 import long_attention
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.positions import look_up
from t5jax.ops.attention import attend
from t5jax.ops.dropout import dropout
from t5jax.ops.gradients import project
from t5jax.ops.norms import rms_norm

# By T5Config.feed_forward_proj, as in transformers: only the ungated "gelu" is the exact one. T5
# 1.1 was trained with the tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2).
NON_LINEARITIES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "silu": jax.nn.silu,
    "gated-relu": jax.nn.relu,
    "gated-gelu": jax.nn.gelu,
    "gated-silu": jax.nn.silu,
}


def activate(config: T5Config, x: jax.Array, linear: jax.Array | None = None) -> jax.Array:
    """The MLP's non-linearity, times the linear half where it is gated."""
    x = NON_LINEARITIES[config.feed_forward_proj](x)
    return x if linear is None else x * linear


def split(key: jax.Array | None, num: int) -> Any:
    """`num` dropout keys; None without one."""
    return (None,) * num if key is None else jax.random.split(key, num)


def constrain(x: jax.Array) -> jax.Array:
    """[B, T, D] between layers, spread over the mesh."""
    return nn.with_logical_constraint(x, ("batch", "length", "embed"))


def _normal(std: float, *axes: str) -> Any:
    return nn.with_logical_partitioning(nn.initializers.normal(std), axes)


class RMSNorm(nn.Module):
    """Root-mean-square norm: no mean, no bias."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        init: Any = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        self.scale = self.param("scale", init, (self.config.d_model,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in `dtype`."""
        return rms_norm(x, self.scale, self.config.layer_norm_epsilon, self.dtype)


class Embedding(nn.Module):
    """The token table, shared by both stacks."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        shape = (self.config.vocab_size, self.config.d_model)
        self.embedding = self.param("embedding", _normal(1.0, "vocab", "embed"), shape)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int[B, T] -> [B, T, D]."""
        # Looking up rows of a table that is also cut by columns makes XLA gather it whole, at
        # every look-up; gathering the columns first costs one exchange.
        table = nn.with_logical_constraint(self.embedding.astype(self.dtype), ("vocab", None))
        return jnp.take(table, ids, axis=0)

    def attend(self, x: jax.Array) -> jax.Array:
        """The tied head: [..., D] -> float32[..., V]."""
        table = self.embedding.astype(self.dtype)
        return jnp.einsum("...D,VD->...V", x, table, preferred_element_type=jnp.float32)


class Head(nn.Module):
    """An output head of its own (T5 1.1)."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        d, v = self.config.d_model, self.config.vocab_size
        self.kernel = self.param("kernel", _normal(d**-0.5, "embed", "vocab"), (d, v))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32[..., V]."""
        kernel = self.kernel.astype(self.dtype)
        return jnp.tensordot(x, kernel, 1, preferred_element_type=jnp.float32)


class RelativeBias(nn.Module):
    """One table of biases by relative position, float32[N, buckets]."""

    config: T5Config

    def setup(self) -> None:
        init: Any = nn.with_logical_partitioning(
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            ("heads", "relpos_buckets"),
        )
        shape = (self.config.num_heads, self.config.relative_attention_num_buckets)
        self.rel_embedding = self.param("rel_embedding", init, shape)

    def __call__(self, buckets: jax.Array) -> jax.Array:
        """int32[T, S] -> float32[N, T, S]."""
        return look_up(self.rel_embedding, buckets)


class Attention(nn.Module):
    """Multi-head attention, without biases in its projections."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        d, n, h = self.config.d_model, self.config.num_heads, self.config.d_kv
        into = ("embed", "heads", "kv")
        self.query = self.param("query", _normal((d * h) ** -0.5, *into), (d, n, h))
        self.key = self.param("key", _normal(d**-0.5, *into), (d, n, h))
        self.value = self.param("value", _normal(d**-0.5, *into), (d, n, h))
        self.out = self.param("out", _normal((n * h) ** -0.5, "heads", "kv", "embed"), (n, h, d))

    def heads(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """[..., D] -> [..., N, H]."""
        return project(x, kernel.astype(self.dtype))

    def project_out(self, y: jax.Array) -> jax.Array:
        """[..., N, H] -> [..., D]."""
        return project(y, self.out.astype(self.dtype), 2)

    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        bias: Any,
        mask: Any,
        key: jax.Array | None,
    ) -> jax.Array:
        """x [B, T, D] attends to memory [B, S, D], which may be x -> [B, T, D].

        `bias` float32[N, T, S] or None; `mask` bool[B, 1, T, S].
        """
        q, k, v = (
            self.heads(x, self.query),
            self.heads(memory, self.key),
            self.heads(memory, self.value),
        )
        y = attend(q, k, v, bias, mask, dropout_rate=self.config.dropout, dropout_key=key)
        return self.project_out(y)


class LongAttention(Attention):
    """LongT5's self-attention of the encoder: the same projections, and a norm of global tokens."""

    def setup(self) -> None:
        super().setup()
        if self.config.global_tokens:
            self.global_input_layer_norm = RMSNorm(self.config, self.dtype)

    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        bias: Any,
        mask: Any,
        key: jax.Array | None,
    ) -> jax.Array:
        """x [B, S, D], which is `memory`, attends to itself: a `LongBias` and a `Reach`."""
        side = None
        if mask.places is not None:
            totals = self.global_input_layer_norm(long_attention.sum_blocks(x, mask.places))
            k, v = (self.heads(totals, w).swapaxes(1, 2) for w in (self.key, self.value))
            side = long_attention.Side(k, v, bias.side, mask.places)
        y = long_attention.attend(
            self.heads(x, self.query),
            self.heads(memory, self.key),
            self.heads(memory, self.value),
            bias.local,
            mask.segments,
            side,
            dropout_rate=self.config.dropout,
            dropout_key=key,
        )
        return self.project_out(y)


class MLP(nn.Module):
    """The feed-forward block: plain, or gated (Shazeer 2020, arXiv:2002.05202)."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        d, f = self.config.d_model, self.config.d_ff
        self.into = [
            self.param(name, _normal(d**-0.5, "embed", "mlp"), (d, f))
            for name in (("wi_0", "wi_1") if self.config.gated else ("wi",))
        ]
        self.wo = self.param("wo", _normal(f**-0.5, "mlp", "embed"), (f, d))

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        function: Any = functools.partial(activate, self.config)
        if self.config.gated:
            # The backward pass recomputes a gated activation from the products: kept for it are
            # two arrays of [B, T, F], not the six that the derivative of a gated GELU is made of.
            function = jax.checkpoint(function)
        x = function(*(project(x, w.astype(self.dtype)) for w in self.into))
        x = dropout(x, self.config.dropout, key)
        return project(x, self.wo.astype(self.dtype))


class Layer(nn.Module):
    """What encoder and decoder layers share: pre-norms, residuals, a bias table where each has."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        if self.config.relative_bias == "per_layer":
            self.relpos_bias = RelativeBias(self.config)
        self.pre_mlp_layer_norm = RMSNorm(self.config, self.dtype)
        self.mlp = MLP(self.config, self.dtype)

    def add(self, x: jax.Array, y: jax.Array, key: jax.Array | None) -> jax.Array:
        """The residual connection."""
        return constrain(x + dropout(y, self.config.dropout, key))


class EncoderLayer(Layer):
    """Self-attention and MLP."""

    def setup(self) -> None:
        super().setup()
        kind = LongAttention if self.config.long else Attention
        self.pre_attention_layer_norm = RMSNorm(self.config, self.dtype)
        self.self_attention = kind(self.config, self.dtype)

    def __call__(self, x: jax.Array, bias: Any, key: jax.Array | None, mask: Any) -> jax.Array:
        """[B, S, D] -> [B, S, D]; bias and mask are those of the kind of attention."""
        keys = split(key, 4)
        y = self.pre_attention_layer_norm(x)
        x = self.add(x, self.self_attention(y, y, bias, mask, keys[0]), keys[1])
        y = self.pre_mlp_layer_norm(x)
        return self.add(x, self.mlp(y, keys[2]), keys[3])


class DecoderLayer(Layer):
    """Causal self-attention, attention to the encoder, MLP."""

    def setup(self) -> None:
        super().setup()
        self.pre_self_attention_layer_norm = RMSNorm(self.config, self.dtype)
        self.self_attention = Attention(self.config, self.dtype)
        self.pre_cross_attention_layer_norm = RMSNorm(self.config, self.dtype)
        self.encoder_decoder_attention = Attention(self.config, self.dtype)

    def __call__(
        self,
        x: jax.Array,
        bias: jax.Array,
        key: jax.Array | None,
        mask: jax.Array,
        encoded: jax.Array,
        cross_mask: jax.Array,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]; the encoder's output is [B, S, D]."""
        keys = split(key, 6)
        y = self.pre_self_attention_layer_norm(x)
        x = self.add(x, self.self_attention(y, y, bias, mask, keys[0]), keys[1])
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, encoded, None, cross_mask, keys[2])
        x = self.add(x, y, keys[3])
        y = self.pre_mlp_layer_norm(x)
        return self.add(x, self.mlp(y, keys[4]), keys[5])
