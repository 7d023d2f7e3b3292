"""The parts of the training network: norm, embeddings, attention, MLP, layers.

Modules own float32 parameters with logical axis names, which `t5jax.sharding` maps to a mesh. New
kernels and embeddings have a standard deviation of 0.02, as in transformers.

Letters: B batch, T query, S key/value, D model, N heads, H head_dim, F mlp, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.bart.config import BartConfig
from t5jax.model.bart.positions import table, within_segments
from t5jax.model.parameters import define
from t5jax.model.stacks import Key, Remat, constrain, fold, normal, split
from t5jax.ops.activations import ACTIVATIONS
from t5jax.ops.attention import attend
from t5jax.ops.dropout import drop_entries
from t5jax.ops.gradients import project
from t5jax.ops.norms import layer_norm

EPSILON = 1e-5  # of every norm; in no config
STD = 0.02


def _zeros(*axes: str) -> Any:
    return nn.with_logical_partitioning(nn.initializers.zeros, axes)


def _ones(*axes: str) -> Any:
    return nn.with_logical_partitioning(nn.initializers.ones, axes)


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al. 2016, arXiv:1607.06450)."""

    config: BartConfig
    dtype: Any

    def setup(self) -> None:
        shape = (self.config.d_model,)
        self.scale = self.param("scale", _ones("embed"), shape)
        self.bias = self.param("bias", _zeros("embed"), shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in `dtype`."""
        return layer_norm(x, self.scale, self.bias, EPSILON, self.dtype)


class Embedding(nn.Module):
    """The token table, shared by both stacks and the head."""

    config: BartConfig
    dtype: Any

    def setup(self) -> None:
        shape = (self.config.vocab_size, self.config.d_model)
        self.embedding = self.param("embedding", normal(STD, "vocab", "embed"), shape)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int[B, T] -> [B, T, D], scaled."""
        # XLA would gather the whole table at each lookup if its columns are sharded too; gathering
        # the columns first costs one exchange.
        rows = nn.with_logical_constraint(self.embedding.astype(self.dtype), ("vocab", None))
        x = jnp.take(rows, ids, axis=0)
        # The padding id, with which decoders of PEGASUS and Marian start, is not trained.
        x = jnp.where((ids == self.config.pad_token_id)[..., None], jax.lax.stop_gradient(x), x)
        return x * embedding_scale(self.config, x.dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """The head: [..., D] -> float32[..., V]."""
        rows = self.embedding.astype(self.dtype)
        return jnp.einsum("...D,VD->...V", x, rows, preferred_element_type=jnp.float32)


def embedding_scale(config: BartConfig, dtype: Any) -> jax.Array:
    """What token embeddings are multiplied by."""
    return jnp.asarray(config.d_model**0.5 if config.scale_embedding else 1.0, dtype)


class PositionEmbedding(nn.Module):
    """Learned positions."""

    config: BartConfig
    longest: int

    def setup(self) -> None:
        shape = (self.longest + self.config.position_offset, self.config.d_model)
        self.embedding = self.param("embedding", normal(STD, "positions", "embed"), shape)

    def __call__(self, positions: jax.Array) -> jax.Array:
        """int[B, T] -> [B, T, D]."""
        at = positions + self.config.position_offset
        return jnp.take(self.embedding, at, axis=0, mode="clip")


class Attention(nn.Module):
    """Multi-head attention, with biases in its projections."""

    config: BartConfig
    dtype: Any
    heads: int

    def setup(self) -> None:
        d, n = self.config.d_model, self.heads
        h = d // n
        self.inner = {
            name: (
                self.param(name, normal(STD, "embed", "heads", "kv"), (d, n, h)),
                self.param(f"{name}_bias", _zeros("heads", "bias"), (n, h)),
            )
            for name in ("query", "key", "value")
        }
        self.out = self.param("out", normal(STD, "heads", "kv", "embed"), (n, h, d))
        self.out_bias = self.param("out_bias", _zeros("embed"), (d,))

    def __call__(self, x: jax.Array, memory: jax.Array, mask: Any, key: Key) -> jax.Array:
        """x [B, T, D] attends to memory [B, S, D], which may be x -> [B, T, D]."""
        q = self._project(x, "query") * (self.config.d_model // self.heads) ** -0.5
        k, v = self._project(memory, "key"), self._project(memory, "value")
        rate = self.config.attention_dropout
        y = attend(q, k, v, None, mask, dropout_rate=rate, dropout_key=key)
        return project(y, self.out.astype(self.dtype), 2) + self.out_bias.astype(self.dtype)

    def _project(self, x: jax.Array, name: str) -> jax.Array:
        kernel, bias = self.inner[name]
        return project(x, kernel.astype(self.dtype)) + bias.astype(self.dtype)


class MLP(nn.Module):
    """The feed-forward block."""

    config: BartConfig
    dtype: Any
    width: int

    def setup(self) -> None:
        d, f = self.config.d_model, self.width
        self.wi = self.param("wi", normal(STD, "embed", "mlp"), (d, f))
        self.wi_bias = self.param("wi_bias", _zeros("mlp"), (f,))
        self.wo = self.param("wo", normal(STD, "mlp", "embed"), (f, d))
        self.wo_bias = self.param("wo_bias", _zeros("embed"), (d,))

    def __call__(self, x: jax.Array, key: Key) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        x = project(x, self.wi.astype(self.dtype)) + self.wi_bias.astype(self.dtype)
        x = ACTIVATIONS[self.config.activation_function](x)
        x = drop_entries(x, self.config.activation_dropout, key)
        return project(x, self.wo.astype(self.dtype)) + self.wo_bias.astype(self.dtype)


class Layer(nn.Module):
    """Common to encoder and decoder layers: residuals with their norms."""

    config: BartConfig
    dtype: Any

    def add(
        self, norm: LayerNorm, x: jax.Array, key: Key, function: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """x with what `function` adds; the norm comes first or last."""
        y = function(norm(x) if self.config.norm_first else x)
        x = x + drop_entries(y, self.config.dropout, key)
        return constrain(x if self.config.norm_first else norm(x))


class EncoderLayer(Layer):
    """Self-attention and MLP."""

    def setup(self) -> None:
        c = self.config
        self.self_attention = Attention(c, self.dtype, c.encoder_attention_heads)
        self.attention_layer_norm = LayerNorm(c, self.dtype)
        self.mlp = MLP(c, self.dtype, c.encoder_ffn_dim)
        self.mlp_layer_norm = LayerNorm(c, self.dtype)

    def __call__(self, x: jax.Array, key: Key, mask: Any) -> jax.Array:
        """[B, S, D] -> [B, S, D]."""
        keys = split(key, 4)
        x = self.add(
            self.attention_layer_norm, x, keys[1],
            lambda y: self.self_attention(y, y, mask, keys[0]),
        )  # fmt: skip
        return self.add(self.mlp_layer_norm, x, keys[3], lambda y: self.mlp(y, keys[2]))


class DecoderLayer(Layer):
    """Causal self-attention, cross-attention, MLP."""

    def setup(self) -> None:
        c = self.config
        heads = c.decoder_attention_heads
        self.self_attention = Attention(c, self.dtype, heads)
        self.self_attention_layer_norm = LayerNorm(c, self.dtype)
        self.encoder_decoder_attention = Attention(c, self.dtype, heads)
        self.cross_attention_layer_norm = LayerNorm(c, self.dtype)
        self.mlp = MLP(c, self.dtype, c.decoder_ffn_dim)
        self.mlp_layer_norm = LayerNorm(c, self.dtype)

    def __call__(
        self, x: jax.Array, key: Key, mask: Any, encoded: jax.Array, cross_mask: Any
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]; the encoder's output is [B, S, D]."""
        keys = split(key, 6)
        x = self.add(
            self.self_attention_layer_norm, x, keys[1],
            lambda y: self.self_attention(y, y, mask, keys[0]),
        )  # fmt: skip
        x = self.add(
            self.cross_attention_layer_norm, x, keys[3],
            lambda y: self.encoder_decoder_attention(y, encoded, cross_mask, keys[2]),
        )  # fmt: skip
        return self.add(self.mlp_layer_norm, x, keys[5], lambda y: self.mlp(y, keys[4]))


class Stack(nn.Module):
    """The position embeddings and layers of a stack, and its norms."""

    config: BartConfig
    dtype: Any
    remat: Remat
    scan: bool

    name_: ClassVar[str]
    layer: ClassVar[type[Layer]]

    def setup(self) -> None:
        c = self.config
        self.depth = getattr(c, f"{self.name_}_layers")
        if self.scan:
            self.layers: Any = self.layer(c, self.dtype)
        else:
            self.layers = [self.layer(c, self.dtype) for _ in range(self.depth)]
        if c.positions == "learned":
            longest = getattr(c, f"max_{self.name_}_positions")
            self.position_embedder = PositionEmbedding(c, longest)
        if c.embedding_norm:
            self.embedding_layer_norm = LayerNorm(c, self.dtype)
        if c.norm_first:
            self.norm = LayerNorm(c, self.dtype)

    def __call__(self, x: jax.Array, segments: jax.Array, key: Key, *seen: Any) -> jax.Array:
        """Token embeddings [B, T, D] -> [B, T, D]; `seen` are each layer's further arguments."""
        c = self.config
        first, inner, skips = split(key, 3)
        x = x + self.positions(segments).astype(self.dtype)
        if c.embedding_norm:
            x = self.embedding_layer_norm(x)
        x = constrain(drop_entries(x, c.dropout, first))
        rate = getattr(c, f"{self.name_}_layerdrop")

        def step(layer: Any, x: jax.Array, keys: Any) -> tuple[jax.Array, None]:
            key, skip = (None, None) if keys is None else keys
            y = layer(x, key, *seen)
            # A skipped layer (Fan et al. 2019, arXiv:1909.11556, section 3.1).
            return y if skip is None or rate == 0.0 else jnp.where(skip, x, y), None

        keys = None
        if inner is not None:
            skip = jax.random.bernoulli(skips, rate, (self.depth,))
            keys = jax.random.split(inner, self.depth), skip
        x = fold(step, self.layers, x, keys, depth=self.depth, scan=self.scan, remat=self.remat)
        return self.norm(x) if c.norm_first else x

    def positions(self, segments: jax.Array) -> jax.Array:
        """Position embeddings of segments int[B, T] -> [B, T, D]."""
        c = self.config
        counted = c.positions != "offset_sines"
        positions = within_segments(segments, padding=counted)
        if c.positions == "learned":
            return self.position_embedder(positions)
        x = jnp.take(table(c, segments.shape[1]), positions, axis=0)
        return x if counted else jnp.where((segments != 0)[..., None], x, 0.0)

    def define(self) -> None:
        """Makes all parameters."""

        def step(layer: Any, *_: Any) -> tuple[None, None]:
            define(layer)
            return None, None

        fold(step, self.layers, None, None, depth=self.depth, scan=self.scan, remat=self.remat)
        define(self, "layers")


class Encoder(Stack):
    """Tokens see their whole segment."""

    name_ = "encoder"
    layer = EncoderLayer


class Decoder(Stack):
    """Tokens see earlier tokens, and the encoder's."""

    name_ = "decoder"
    layer = DecoderLayer


class Head(nn.Module):
    """The bias of the logits."""

    config: BartConfig

    def setup(self) -> None:
        self.bias = self.param("bias", _zeros("vocab"), (self.config.vocab_size,))

    def __call__(self, logits: jax.Array) -> jax.Array:
        """float32[..., V] -> float32[..., V]."""
        return logits + self.bias
