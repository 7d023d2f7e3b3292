"""Modules that own parameters: norm, embedding, relative bias, attention, MLP.

Parameters are float32 and carry logical axis names; `t5jax.sharding` maps those to a mesh. Initial
standard deviations are T5X's (Raffel et al. 2020; Mesh TensorFlow): with them logits need no
1/sqrt(d) anywhere.

With `inference=True` a module wants its kernels as `t5jax.model.t5.parameters.for_inference` lays
them out: output dimensions first, and one kernel where several are multiplied with one input.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5jax.model.cache import fold_heads, unfold_heads, write_keys, write_values
from t5jax.model.t5 import long_attention
from t5jax.model.t5.config import T5Config
from t5jax.ops import attention
from t5jax.ops.quantized import Quantized, multiply

# Projections by what they are made of: of x, or of x and of the encoder's output.
SELF = (("query", "key", "value"),)
CROSS = (("query",), ("key", "value"))

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


def _normal(std: float, *axes: str) -> Any:
    return nn.with_logical_partitioning(nn.initializers.normal(std), axes)


def _zeros(*axes: str | None) -> Any:
    """For a network for inference: its parameters come from a training tree or a file."""
    return nn.with_logical_partitioning(nn.initializers.zeros, axes)


def _kernel(module: nn.Module, name: str, init: Any, shape: tuple[int, ...]) -> Any:
    """A parameter that may be `Quantized`, whose parts have shapes that Flax would refuse."""
    if module.has_variable("params", name):
        value: Any = module.get_variable("params", name)
        if isinstance(value, Quantized):
            return value
    return module.param(name, init, shape)


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


# Rows up to which a product is written as kernel times columns.
FEW_ROWS = 256


def project_inference(
    x: jax.Array, w: jax.Array | Quantized, contracted: int = 1, dtype: Any = None
) -> jax.Array:
    """x [..., *C] with w [*O, *C], a kernel laid out for inference -> [..., *O].

    A CPU streams w as it lies and rearranges only x when a few rows are multiplied from the right:
    at 16 of them nearly twice as fast.
    """
    rows, outputs = x.shape[: x.ndim - contracted], w.shape[: w.ndim - contracted]
    if isinstance(w, Quantized):
        x = x.reshape(math.prod(rows), *x.shape[len(rows) :])
        y = multiply(x, w, x.dtype if dtype is None else dtype)
        return y.reshape(*rows, *outputs)
    # As matrices; XLA would transpose a kernel of more dimensions at each use.
    x = x.reshape(math.prod(rows), -1)
    w = w.reshape(math.prod(outputs), -1)
    if len(x) <= FEW_ROWS:
        columns = jnp.einsum("OC,RC->OR", w, x, preferred_element_type=dtype)
        # Without the barrier XLA would turn the product round again, to save the transposition.
        y = jax.lax.optimization_barrier(columns).T
    else:
        y = jnp.einsum("RC,OC->RO", x, w, preferred_element_type=dtype)
    return y.reshape(*rows, *outputs)


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
    inference: bool = False

    def setup(self) -> None:
        shape = (self.config.vocab_size, self.config.d_model)
        self.embedding = _kernel(self, "embedding", _normal(1.0, "vocab", "embed"), shape)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int[...] -> [..., D]."""
        # Looking up rows of a table that is also cut by columns makes XLA gather it whole, at
        # every look-up; gathering the columns first costs one exchange.
        if isinstance(self.embedding, Quantized):
            return self.embedding.take(ids, self.dtype)
        table = nn.with_logical_constraint(self.embedding.astype(self.dtype), ("vocab", None))
        return jnp.take(table, ids, axis=0)

    def attend(self, x: jax.Array) -> jax.Array:
        """The tied head: [..., D] -> float32[..., V]."""
        table = self.embedding.astype(self.dtype)
        if self.inference:
            return project_inference(x, table, dtype=jnp.float32)
        return jnp.einsum("...D,VD->...V", x, table, preferred_element_type=jnp.float32)


class Head(nn.Module):
    """An output head of its own (T5 1.1)."""

    config: T5Config
    dtype: Any
    inference: bool = False

    def setup(self) -> None:
        d, v = self.config.d_model, self.config.vocab_size
        if self.inference:
            self.kernel = _kernel(self, "kernel", _zeros("vocab", "embed"), (v, d))
        else:
            self.kernel = self.param("kernel", _normal(d**-0.5, "embed", "vocab"), (d, v))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> float32[..., V]."""
        kernel = self.kernel.astype(self.dtype)
        if self.inference:
            return project_inference(x, kernel, dtype=jnp.float32)
        return jnp.tensordot(x, kernel, 1, preferred_element_type=jnp.float32)


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
    """Multi-head attention's projections, without biases.

    `groups` names those that are made of one input. For inference each group has its kernels in
    one, `query_key_value` [N, 3, H, D] for example, and is one product.
    """

    config: T5Config
    dtype: Any
    groups: tuple[tuple[str, ...], ...]
    inference: bool = False

    def setup(self) -> None:
        d, n, h = self.config.d_model, self.config.num_heads, self.config.d_kv
        for group in self.groups:
            if self.inference:
                name = "_".join(group)
                init = _zeros("heads", None, "kv", "embed")
                setattr(self, name, _kernel(self, name, init, (n, len(group), h, d)))
                continue
            for name in group:
                init = _normal((d * h if name == "query" else d) ** -0.5, "embed", "heads", "kv")
                setattr(self, name, self.param(name, init, (d, n, h)))
        if self.inference:
            self.out = _kernel(self, "out", _zeros("embed", "heads", "kv"), (d, n, h))
        else:
            init = _normal((n * h) ** -0.5, "heads", "kv", "embed")
            self.out = self.param("out", init, (n, h, d))

    def heads(self, x: jax.Array, *names: str) -> tuple[jax.Array, ...]:
        """[..., D] -> [..., N, H] for each of `names`, which follow one another in a group."""
        if self.inference:
            group = next(group for group in self.groups if names[0] in group)
            first = group.index(names[0])
            kernel = getattr(self, "_".join(group))[:, first : first + len(names)]
            y = project_inference(x, kernel.astype(self.dtype))
            return tuple(y[..., i, :] for i in range(len(names)))
        # Putting the kernels together here would cost more than one product in place of several
        # gains: they, and their gradients, change at every step.
        return tuple(project(x, getattr(self, name).astype(self.dtype)) for name in names)

    def project_out(self, y: jax.Array) -> jax.Array:
        """[..., N, H] -> [..., D]."""
        out = self.out.astype(self.dtype)
        return project_inference(y, out, 2) if self.inference else project(y, out, 2)

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
            q, k, v = self.heads(x, *SELF[0])
        else:
            (q,), (k, v) = self.heads(x, *CROSS[0]), self.heads(memory, *CROSS[1])
        y = attention.attend(
            q, k, v, bias, mask, dropout_rate=self.config.dropout, dropout_key=dropout_key
        )
        return self.project_out(y)

    def weights(self, x: jax.Array, memory: jax.Array, mask: jax.Array) -> jax.Array:
        """Where x [B, T, D] looks in memory [B, S, D]: float32[B, N, T, S], rows sum to 1."""
        (q,), (k, _) = self.heads(x, *CROSS[0]), self.heads(memory, *CROSS[1])
        return attention.attention_weights(q, k, None, mask)

    def project_memory(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, S, D] -> keys [B, N, H, S] and values [B, N, S, H], once for an input."""
        k, v = self.heads(memory, *CROSS[1])
        return k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)

    def step(
        self,
        x: jax.Array,
        cache: tuple[jax.Array, jax.Array],
        slot: jax.Array,
        bias: jax.Array | None,
        mask: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Self-attention of K new tokens a row: x [B*K, D] -> [B*K, D], the cache with them.

        Args:
          cache: keys and values with T slots.
          slot: int32 scalar, the first of the K slots that the new tokens go to.
          bias: float32[N, K or 1, T], or None.
          mask: bool[B or 1, 1, K, T], the slots that each new token sees.
        """
        new, rows = mask.shape[2], cache[0].shape[0]
        q, k, v = (y.reshape(-1, new, *y.shape[1:]) for y in self.heads(x, *SELF[0]))
        batch = len(q)
        q, k, v = (fold_heads(y, rows) for y in (q, k, v))
        if bias is not None:
            bias = bias.reshape(-1, q.shape[2], *bias.shape[1:])
        keys, values = write_keys(cache[0], k, slot), write_values(cache[1], v, slot)
        y = unfold_heads(attention.attend_step(q, keys, values, bias, mask), batch)
        return self.project_out(y.reshape(len(x), self.config.num_heads, -1)), (keys, values)

    def cross_step(
        self, x: jax.Array, cross_kv: tuple[jax.Array, jax.Array], mask: jax.Array
    ) -> jax.Array:
        """x [B*G, D] attends to the keys and values of B inputs; G rows share one."""
        keys, values = cross_kv
        (q,) = self.heads(x, *CROSS[0])
        q = q.reshape(keys.shape[0], -1, *q.shape[1:])
        y = attention.attend_step(q, keys, values, None, mask)
        return self.project_out(y.reshape(x.shape[0], *q.shape[2:]))


class LongAttention(Attention):
    """LongT5's self-attention of the encoder: the same projections, and a norm of global tokens."""

    def setup(self) -> None:
        super().setup()
        if self.config.global_tokens:
            self.global_input_layer_norm = RMSNorm(
                self.config.d_model, self.config.layer_norm_epsilon, self.dtype
            )

    def encode(
        self,
        x: jax.Array,
        bias: long_attention.LongBias,
        layout: long_attention.Layout,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """[B, S, D] -> [B, S, D]."""
        side = None
        if bias.side is not None and layout.places is not None:
            totals = long_attention.sum_blocks(x, layout.places)
            totals = self.global_input_layer_norm(totals)
            if totals.shape[1]:
                k, v = (y.swapaxes(1, 2) for y in self.heads(totals, "key", "value"))
                side = long_attention.Side(k, v, bias.side, layout.places)
        q, k, v = self.heads(x, *SELF[0])
        y = long_attention.attend(
            q,
            k,
            v,
            bias.local,
            layout.segments,
            side,
            dropout_rate=self.config.dropout,
            dropout_key=dropout_key,
        )
        return self.project_out(y)


class MLP(nn.Module):
    """The feed-forward block: plain, or gated (Shazeer 2020, arXiv:2002.05202)."""

    config: T5Config
    dtype: Any
    inference: bool = False

    def setup(self) -> None:
        d, f = self.config.d_model, self.config.d_ff
        if self.inference:
            shape = (f, 2 if self.config.gated else 1, d)
            self.wi = _kernel(self, "wi", _zeros("mlp", None, "embed"), shape)
            self.wo = _kernel(self, "wo", _zeros("embed", "mlp"), (d, f))
            return
        into = _normal(d**-0.5, "embed", "mlp")
        if self.config.gated:
            self.wi_0 = self.param("wi_0", into, (d, f))
            self.wi_1 = self.param("wi_1", into, (d, f))
        else:
            self.wi = self.param("wi", into, (d, f))
        self.wo = self.param("wo", _normal(f**-0.5, "mlp", "embed"), (f, d))

    def __call__(self, x: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """[..., D] -> [..., D]; dropout wants a length axis before D."""
        if self.inference:
            hidden = project_inference(x, self.wi.astype(self.dtype))
            parts = [hidden[..., i] for i in range(hidden.shape[-1])]
            return project_inference(self.activate(*parts), self.wo.astype(self.dtype))
        kernels = (self.wi_0, self.wi_1) if self.config.gated else (self.wi,)
        # The backward pass recomputes a gated activation from the products: kept for it are two
        # arrays of [..., F], not the six that the derivative of a gated GELU is made of.
        activate = jax.checkpoint(self.activate) if self.config.gated else self.activate
        x = activate(*(project(x, w.astype(self.dtype)) for w in kernels))
        x = attention.dropout(x, self.config.dropout, dropout_key)
        return project(x, self.wo.astype(self.dtype))

    def activate(self, x: jax.Array, linear: jax.Array | None = None) -> jax.Array:
        """The non-linearity, times the linear half where the block is gated."""
        x = NON_LINEARITIES[self.config.feed_forward_proj](x)
        return x if linear is None else x * linear
