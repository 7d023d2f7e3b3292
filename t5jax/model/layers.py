"""Modules that own parameters: norm, embedding, relative bias, attention, MLP.

Parameters are float32 and carry logical axis names; `t5jax.sharding` maps those to a mesh. Initial
standard deviations are T5X's (Raffel et al. 2020; Mesh TensorFlow): with them logits need no
1/sqrt(d) anywhere.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model import attention
from t5jax.model.cache import write
from t5jax.model.config import T5Config


def _normal(std: float, *axes: str) -> Any:
    return nn.with_logical_partitioning(nn.initializers.normal(std), axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(x: jax.Array, w: jax.Array, contracted: int = 1) -> jax.Array:
    """x [..., *C] with w [*C, *O] over their `contracted` common dimensions -> [..., *O].

    JAX's own gradient of w transposes the gradient of the output, which in T5 is the wider one
    and fused with the activation's derivative: on a CPU the slowest loop of a training step. This
    one transposes x.
    """
    return jnp.tensordot(x, w, contracted)


def _project_forward(x: jax.Array, w: jax.Array, contracted: int) -> Any:
    return jnp.tensordot(x, w, contracted), (x, w)


def _project_backward(contracted: int, saved: Any, ct: jax.Array) -> Any:
    x, w = saved
    rows = x.ndim - contracted
    axes = tuple(range(rows))
    dx = jnp.tensordot(ct, w, (tuple(range(rows, ct.ndim)), tuple(range(contracted, w.ndim))))
    return dx, jnp.tensordot(x, ct, (axes, axes))


project.defvjp(_project_forward, _project_backward)


class RMSNorm(nn.Module):
    """Root-mean-square norm: no mean, no bias, statistics in float32 (arXiv:1910.07467)."""

    width: int
    epsilon: float
    dtype: Any

    def setup(self) -> None:
        init: Any = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        self.scale = self.param("scale", init, (self.width,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in `dtype`."""
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * self.scale).astype(self.dtype)


class Embedding(nn.Module):
    """The token table, shared by both stacks."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        shape = (self.config.vocab_size, self.config.d_model)
        self.embedding = self.param("embedding", _normal(1.0, "vocab", "embed"), shape)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int[...] -> [..., D]."""
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
        shape = (self.config.d_model, self.config.vocab_size)
        init = _normal(self.config.d_model**-0.5, "embed", "vocab")
        self.kernel = self.param("kernel", init, shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32[..., V]."""
        kernel = self.kernel.astype(self.dtype)
        return jnp.einsum("...D,DV->...V", x, kernel, preferred_element_type=jnp.float32)


class RelativeBias(nn.Module):
    """One table of biases by relative position, float32[N, buckets]."""

    config: T5Config
    bidirectional: bool

    def setup(self) -> None:
        config = self.config
        init: Any = nn.with_logical_partitioning(
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            ("heads", "relpos_buckets"),
        )
        shape = (config.num_heads, config.relative_attention_num_buckets)
        self.rel_embedding = self.param("rel_embedding", init, shape)

    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Positions int[T], int[S] -> float32[N, T, S]."""
        buckets = attention.relative_position_bucket(
            keys[None, :] - queries[:, None],
            bidirectional=self.bidirectional,
            num_buckets=self.config.relative_attention_num_buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        return jnp.take(self.rel_embedding, buckets, axis=1)


class Attention(nn.Module):
    """Multi-head attention's four projections, without biases."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        d, n, h = self.config.d_model, self.config.num_heads, self.config.d_kv
        into = ("embed", "heads", "kv")
        self.query = self.param("query", _normal((d * h) ** -0.5, *into), (d, n, h))
        self.key = self.param("key", _normal(d**-0.5, *into), (d, n, h))
        self.value = self.param("value", _normal(d**-0.5, *into), (d, n, h))
        out = _normal((n * h) ** -0.5, "heads", "kv", "embed")
        self.out = self.param("out", out, (n, h, d))

    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None,
        bias: jax.Array | None,
        mask: jax.Array,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """x [B, T, D] attends to itself, or to memory [B, S, D] -> [B, T, D]."""
        if memory is None:
            # One product in place of three: the activations are read once.
            fused = jnp.stack([self.query, self.key, self.value], axis=1).astype(self.dtype)
            qkv = project(x, fused)
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        else:
            q = project(x, self.query.astype(self.dtype))
            fused = jnp.stack([self.key, self.value], axis=1).astype(self.dtype)
            kv = project(memory, fused)
            k, v = kv[:, :, 0], kv[:, :, 1]
        y = attention.attend(
            q, k, v, bias, mask, dropout_rate=self.config.dropout, dropout_key=dropout_key
        )
        return project(y, self.out.astype(self.dtype), 2)

    def project_memory(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, S, D] -> keys and values [B, N, S, H], once for an input."""
        keys = jnp.einsum("BSD,DNH->BNSH", memory, self.key.astype(self.dtype))
        values = jnp.einsum("BSD,DNH->BNSH", memory, self.value.astype(self.dtype))
        return keys, values

    def step(
        self,
        x: jax.Array,
        cache: tuple[jax.Array, jax.Array],
        index: jax.Array,
        bias: jax.Array | None,
        mask: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Self-attention of one new token: x [B, D] -> [B, D] and the cache with it written."""
        q = jnp.einsum("BD,DNH->BNH", x, self.query.astype(self.dtype))
        k = jnp.einsum("BD,DNH->BNH", x, self.key.astype(self.dtype))
        v = jnp.einsum("BD,DNH->BNH", x, self.value.astype(self.dtype))
        keys, values = write(cache[0], k, index), write(cache[1], v, index)
        y = attention.attend_step(q[:, None], keys, values, bias, mask)[:, 0]
        return jnp.einsum("BNH,NHD->BD", y, self.out.astype(self.dtype)), (keys, values)

    def cross_step(
        self, x: jax.Array, cross_kv: tuple[jax.Array, jax.Array], mask: jax.Array
    ) -> jax.Array:
        """x [B*G, D] attends to keys and values [B, N, S, H]; G rows share an input."""
        keys, values = cross_kv
        q = jnp.einsum("BD,DNH->BNH", x, self.query.astype(self.dtype))
        q = q.reshape(keys.shape[0], -1, *q.shape[1:])
        y = attention.attend_step(q, keys, values, None, mask).reshape(x.shape[0], *q.shape[2:])
        return jnp.einsum("BNH,NHD->BD", y, self.out.astype(self.dtype))


class MLP(nn.Module):
    """The feed-forward block: plain, or gated (Shazeer 2020, arXiv:2002.05202)."""

    config: T5Config
    dtype: Any

    def setup(self) -> None:
        d, f = self.config.d_model, self.config.d_ff
        into = _normal(d**-0.5, "embed", "mlp")
        if self.config.gated:
            self.wi_0 = self.param("wi_0", into, (d, f))
            self.wi_1 = self.param("wi_1", into, (d, f))
        else:
            self.wi = self.param("wi", into, (d, f))
        self.wo = self.param("wo", _normal(f**-0.5, "mlp", "embed"), (f, d))

    def __call__(self, x: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """[..., D] -> [..., D]; dropout wants a length axis before D."""
        # jax.nn.gelu is the tanh form by default, which T5 1.1 was trained with.
        activation = getattr(jax.nn, self.config.activation)
        # The backward pass recomputes the activation from the products: kept for it are two
        # arrays of [..., F], not the six that the derivative of a gated GELU is made of.
        if self.config.gated:
            gate = jax.checkpoint(lambda a, b: activation(a) * b)
            x = gate(
                project(x, self.wi_0.astype(self.dtype)), project(x, self.wi_1.astype(self.dtype))
            )
        else:
            x = jax.checkpoint(activation)(project(x, self.wi.astype(self.dtype)))
        x = attention.dropout(x, self.config.dropout, dropout_key)
        return project(x, self.wo.astype(self.dtype))
