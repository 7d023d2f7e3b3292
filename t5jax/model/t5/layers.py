"""The parts of the training network: norm, embedding, relative bias, attention, MLP, layers.

Modules own float32 parameters with logical axis names, which `t5jax.sharding` maps to a mesh.
Initial standard deviations are T5X's (Raffel et al. 2020; Mesh TensorFlow); with them logits need
no 1/sqrt(d).

Letters: B batch, T query, S key/value, D model, N heads, H head_dim, F mlp, V vocab.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.parameters import define
from t5jax.model.stacks import Key, Remat, constrain, fold, normal, split
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.positions import buckets
from t5jax.ops.activations import ACTIVATIONS
from t5jax.ops.attention import attend, bias_positions
from t5jax.ops.dropout import dropout
from t5jax.ops.gradients import project
from t5jax.ops.masks import SegmentMask
from t5jax.ops.norms import rms_norm


def activate(config: T5Config, x: jax.Array, linear: jax.Array | None = None) -> jax.Array:
    """The MLP's non-linearity, times the linear half if the MLP is gated."""
    name = config.feed_forward_proj.removeprefix("gated-")
    # As in transformers, only the ungated "gelu" is exact. T5 1.1 was trained with the tanh form.
    x = ACTIVATIONS["gelu_new" if name == "gelu" and config.gated else name](x)
    return x if linear is None else x * linear


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
        self.embedding = self.param("embedding", normal(1.0, "vocab", "embed"), shape)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int[B, T] -> [B, T, D]."""
        # XLA would gather the whole table at each lookup if its columns are sharded too; gathering
        # the columns first costs one exchange.
        table = nn.with_logical_constraint(self.embedding.astype(self.dtype), ("vocab", None))
        return jnp.take(table, ids, axis=0)

    def attend(self, x: jax.Array) -> jax.Array:
        """The tied head: [..., D] -> float32[..., V]."""
        table = self.embedding.astype(self.dtype)
        return jnp.einsum("...D,VD->...V", x, table, preferred_element_type=jnp.float32)


class Head(nn.Module):
    """The untied output head (T5 1.1)."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        d, v = self.config.d_model, self.config.vocab_size
        self.kernel = self.param("kernel", normal(d**-0.5, "embed", "vocab"), (d, v))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32[..., V]."""
        kernel = self.kernel.astype(self.dtype)
        return jnp.tensordot(x, kernel, 1, preferred_element_type=jnp.float32)


class RelativeBias(nn.Module):
    """A table of relative position biases, float32[N, buckets]."""

    config: T5Config

    def setup(self) -> None:
        uniform = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        init: Any = nn.with_logical_partitioning(uniform, ("heads", "relpos_buckets"))
        shape = (self.config.num_heads, self.config.relative_attention_num_buckets)
        self.rel_embedding = self.param("rel_embedding", init, shape)

    def __call__(self, found: jax.Array) -> jax.Array:
        """int32[T, S] -> float32[N, T, S]."""
        return jnp.take(self.rel_embedding, found, axis=1)


class Attention(nn.Module):
    """Multi-head attention, without biases in its projections."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        d, n, h = self.config.d_model, self.config.num_heads, self.config.d_kv
        into = ("embed", "heads", "kv")
        self.query = self.param("query", normal((d * h) ** -0.5, *into), (d, n, h))
        self.key = self.param("key", normal(d**-0.5, *into), (d, n, h))
        self.value = self.param("value", normal(d**-0.5, *into), (d, n, h))
        self.out = self.param("out", normal((n * h) ** -0.5, "heads", "kv", "embed"), (n, h, d))

    def __call__(
        self, x: jax.Array, memory: jax.Array, bias: Any, mask: Any, key: Key
    ) -> jax.Array:
        """x [B, T, D] attends to memory [B, S, D], which may be x -> [B, T, D].

        `bias` and `mask` as `t5jax.ops.attention.attend` takes them.
        """
        q = project(x, self.query.astype(self.dtype))
        k = project(memory, self.key.astype(self.dtype))
        v = project(memory, self.value.astype(self.dtype))
        y = attend(q, k, v, bias, mask, dropout_rate=self.config.dropout, dropout_key=key)
        return project(y, self.out.astype(self.dtype), 2)


class MLP(nn.Module):
    """The feed-forward block: plain, or gated (Shazeer 2020, arXiv:2002.05202)."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        d, f = self.config.d_model, self.config.d_ff
        names = ("wi_0", "wi_1") if self.config.gated else ("wi",)
        self.into = [self.param(name, normal(d**-0.5, "embed", "mlp"), (d, f)) for name in names]
        self.wo = self.param("wo", normal(f**-0.5, "mlp", "embed"), (f, d))

    def __call__(self, x: jax.Array, key: Key) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        function: Any = functools.partial(activate, self.config)
        if self.config.gated:
            # Recomputed in the backward pass, which then keeps two arrays [B, T, F], not the six of
            # a gated GELU's derivative.
            function = jax.checkpoint(function)
        x = function(*(project(x, w.astype(self.dtype)) for w in self.into))
        return project(dropout(x, self.config.dropout, key), self.wo.astype(self.dtype))


class Layer(nn.Module):
    """Common to encoder and decoder layers: the MLP, residuals, a bias table per layer (umT5)."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        if self.config.relative_bias == "per_layer":
            self.relpos_bias = RelativeBias(self.config)
        self.pre_mlp_layer_norm = RMSNorm(self.config, self.dtype)
        self.mlp = MLP(self.config, self.dtype)

    def add(self, x: jax.Array, y: jax.Array, key: Key) -> jax.Array:
        """The residual connection."""
        return constrain(x + dropout(y, self.config.dropout, key))


class EncoderLayer(Layer):
    """Self-attention and MLP."""

    kind: ClassVar[type[nn.Module]] = Attention

    def setup(self) -> None:
        super().setup()
        self.pre_attention_layer_norm = RMSNorm(self.config, self.dtype)
        self.self_attention = self.kind(self.config, self.dtype)

    def __call__(self, x: jax.Array, bias: Any, key: Key, mask: Any) -> jax.Array:
        """[B, S, D] -> [B, S, D]; bias and mask as its attention takes them."""
        keys = split(key, 4)
        y = self.pre_attention_layer_norm(x)
        x = self.add(x, self.self_attention(y, y, bias, mask, keys[0]), keys[1])
        y = self.pre_mlp_layer_norm(x)
        return self.add(x, self.mlp(y, keys[2]), keys[3])


class DecoderLayer(Layer):
    """Causal self-attention, cross-attention, MLP."""

    def setup(self) -> None:
        super().setup()
        self.pre_self_attention_layer_norm = RMSNorm(self.config, self.dtype)
        self.self_attention = Attention(self.config, self.dtype)
        self.pre_cross_attention_layer_norm = RMSNorm(self.config, self.dtype)
        self.encoder_decoder_attention = Attention(self.config, self.dtype)

    def __call__(
        self, x: jax.Array, bias: Any, key: Key, mask: Any, encoded: jax.Array, cross_mask: Any
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


class Stack(nn.Module):
    """The layers of a stack, their shared bias table, and the final norm."""

    config: T5Config
    dtype: Any
    remat: Remat
    scan: bool
    depth: int

    layer: ClassVar[type[Layer]]
    bidirectional: ClassVar[bool]

    def setup(self) -> None:
        if self.config.relative_bias == "shared":
            self.relpos_bias = RelativeBias(self.config)
        if self.scan:
            self.layers: Any = self.layer(self.config, self.dtype)
        else:
            self.layers = [self.layer(self.config, self.dtype) for _ in range(self.depth)]
        self.norm = RMSNorm(self.config, self.dtype)

    def __call__(self, x: jax.Array, key: Key, *seen: Any) -> jax.Array:
        """[B, T, D] -> [B, T, D], normed; `seen` are each layer's further arguments."""
        first, last, inner = split(key, 3)
        x = constrain(dropout(x, self.config.dropout, first))
        shared, found = self.biases(x.shape[1])

        def step(layer: Any, x: jax.Array, key: Key) -> tuple[jax.Array, None]:
            bias = layer.relpos_bias(found) if shared is None else shared
            return layer(x, bias, key, *seen), None

        x = self.fold(step, x, None if inner is None else jax.random.split(inner, self.depth))
        return dropout(self.norm(x), self.config.dropout, last)

    def biases(self, length: int) -> tuple[Any, jax.Array | None]:
        """The bias shared by all layers, or the buckets for each layer's table."""
        positions = bias_positions(length, length)
        found = buckets(self.config, *positions, bidirectional=self.bidirectional)
        if self.config.relative_bias == "per_layer":
            return None, found
        return self.relpos_bias(found), None

    def fold(self, step: Any, x: Any, keys: jax.Array | None) -> Any:
        """Applies `x, _ = step(layer, x, key)` in turn, scanned or unrolled."""
        return fold(step, self.layers, x, keys, depth=self.depth, scan=self.scan, remat=self.remat)

    def define(self) -> None:
        """Makes all parameters."""

        def step(layer: Any, *_: Any) -> tuple[None, None]:
            define(layer)
            return None, None

        self.fold(step, None, None)
        define(self, "layers")


class Encoder(Stack):
    """Tokens see their whole segment."""

    layer = EncoderLayer
    bidirectional = True

    def mask(self, segment_ids: jax.Array) -> Any:
        """The attention mask of segments int[B, S]."""
        return SegmentMask(segment_ids, segment_ids)


class Decoder(Stack):
    """Tokens see earlier tokens, and the encoder's."""

    layer = DecoderLayer
    bidirectional = False
