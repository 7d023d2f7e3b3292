"""A family of models that nothing else knows: one head, biases everywhere, learned positions.

Its padding id is not an id of the vocabulary, and its decoder starts with id 2.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from t5jax.knobs import check_knobs, knob
from t5jax.model.contract import DecoderTrace, EncoderTrace
from t5jax.model.family import Family, Sizes
from t5jax.model.layout import Leaf, same
from t5jax.model.parameters import for_serving
from t5jax.ops.quantized import Quantized


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    vocab_size: int = knob(384, "rows of the embedding", least=1)
    width: int = knob(16, "width of everything", least=1)
    depth: int = knob(2, "layers of each stack", least=1)
    positions: int = knob(64, "rows of the table of positions", least=1)
    dropout: float = knob(0.0, "not used", least=0, below=1)
    pad_token_id: int = knob(383, "id of padding", least=0)
    eos_token_id: int = knob(1, "id that ends a sequence", least=0)
    decoder_start_token_id: int = knob(2, "the decoder's first input", least=0)
    encoder_only = False
    longest_input = longest_output = property(lambda self: self.positions)
    replace = dataclasses.replace

    def __post_init__(self) -> None:
        check_knobs(self)


def norm(p: Any, x: jax.Array) -> jax.Array:
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p["shift"]


def weights(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    logits = jnp.einsum("...TD,...SD->...TS", q, k) / q.shape[-1] ** 0.5
    return jax.nn.softmax(jnp.where(mask, logits, -1e9))


def together(queries: jax.Array, keys: jax.Array) -> jax.Array:
    return (queries[:, :, None] == keys[:, None, :]) & (keys != 0)[:, None, :]


def embed(p: Any, ids: jax.Array, positions: jax.Array) -> jax.Array:
    return p["token"]["embedding"][ids] + p["token"]["positions"][positions]


def head(p: Any, x: jax.Array) -> jax.Array:
    return jnp.einsum("...D,VD->...V", x, p["token"]["embedding"]) + p["token"]["logits_bias"]


class Tree(nn.Module):
    """Parameters by name, each with its shape and its axes' names."""

    parameters: Any

    def setup(self) -> None:
        for name, shape, axes in self.parameters:
            init = nn.initializers.ones if name == "scale" else nn.initializers.normal(0.5)
            boxed: Any = nn.with_logical_partitioning(init, axes)
            setattr(self, name, self.param(name, boxed, shape))

    def tree(self) -> dict[str, jax.Array]:
        return {name: getattr(self, name) for name, _, _ in self.parameters}


class Stack(nn.Module):
    config: ToyConfig

    def setup(self) -> None:
        depth, width = self.config.depth, self.config.width
        vectors = [
            (name, (depth, width), ("layers", "embed"))
            for name in ("scale", "shift", "query_bias", "key_bias", "value_bias")
        ]
        kernels = [
            (name, (depth, width, width), ("layers", "embed", "mlp"))
            for name in ("query", "key", "value")
        ]
        self.layers = Tree((*vectors, *kernels))


class Toy(nn.Module):
    """The training network: declares the parameters, and computes what serving does."""

    config: ToyConfig
    dtype: Any = jnp.float32
    remat: str = "none"
    scan: bool = True

    def setup(self) -> None:
        vocab, width = self.config.vocab_size, self.config.width
        tables = [("embedding", vocab), ("positions", self.config.positions)]
        two = [(name, (rows, width), ("vocab", "embed")) for name, rows in tables]
        self.token = Tree((*two, ("logits_bias", (vocab,), ("vocab",))))
        self.encoder, self.decoder = Stack(self.config), Stack(self.config)

    def tree(self) -> Any:
        stacks = {"encoder": self.encoder, "decoder": self.decoder}
        params = {name: {"layers": stack.layers.tree()} for name, stack in stacks.items()}
        return for_serving(self.config, params | {"token": self.token.tree()})

    def define(self) -> None:
        self.tree()

    def encode(self, ids: jax.Array, segments: jax.Array | None = None) -> jax.Array:
        if segments is None:
            segments = (ids != self.config.pad_token_id).astype(jnp.int32)
        return FastToy(self.config, self.dtype).encode(self.tree(), ids, segments)

    def __call__(
        self, ids: Any, prefix: Any, segments: Any = None, own: Any = None, dropout_key: Any = None
    ) -> jax.Array:
        if segments is None:
            segments = (ids != self.config.pad_token_id).astype(jnp.int32)
        hidden = self.encode(ids, segments)
        network = FastToy(self.config, self.dtype)
        return network.decode(self.tree(), hidden, segments, prefix, own)


@flax.struct.dataclass
class ToyCache:
    """Keys and values of every layer, [L, 2, rows, beams, T, D]."""

    kv: jax.Array

    @property
    def length(self) -> int:
        return self.kv.shape[4]

    def extend(self, length: int) -> ToyCache:
        room = [(0, length - self.length if axis == 4 else 0) for axis in range(6)]
        return ToyCache(jnp.pad(self.kv, room))


@dataclasses.dataclass(frozen=True)
class FastToy:
    config: ToyConfig
    dtype: Any

    def layers(self, stack: Any) -> list[Any]:
        return [stack[f"layers_{i}"] for i in range(self.config.depth)]

    def kv(self, p: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        kernel, bias = p["key_value"], p["key_value_bias"]
        kernel = kernel.expand() if isinstance(kernel, Quantized) else kernel
        return x @ kernel[0].T + bias[0], x @ kernel[1].T + bias[1]

    def attend(self, p: Any, x: jax.Array, k: Any, v: Any, mask: jax.Array) -> Any:
        w = weights(norm(p, x) @ p["query"] + p["query_bias"], k, mask)
        return x + w @ v, w

    def encode(self, params: Any, input_ids: jax.Array, segments: jax.Array) -> jax.Array:
        x = self.trace_encoder(params, input_ids, segments).hidden[:, -1]
        return jnp.where((segments != 0)[..., None], x, 0.0)

    def decode(
        self, params: Any, hidden: Any, segments: Any, ids: jax.Array, own: Any = None
    ) -> jax.Array:
        trace = self.trace_decoder(params, hidden, segments, ids, own)
        return head(params, trace.hidden[:, -1])

    def cross_kv(self, params: Any, hidden: jax.Array) -> Any:
        return [self.kv(p, hidden) for p in self.layers(params["decoder"])]

    def init_cache(self, rows: int, length: int, beams: int = 1) -> ToyCache:
        c = self.config
        return ToyCache(jnp.zeros((c.depth, 2, rows, beams, length, c.width), self.dtype))

    def decode_hidden(
        self, params: Any, tokens: Any, cross_kv: Any, mask: Any, cache: Any, index: Any,
        ancestry: Any = None,
    ) -> Any:  # fmt: skip
        rows, beams = cache.kv.shape[2:4]
        x, kv = embed(params, tokens, index), cache.kv
        seen = jnp.arange(cache.length) <= index
        for i, (p, (keys, values)) in enumerate(
            zip(self.layers(params["decoder"]), cross_kv, strict=True)
        ):
            x = x.reshape(rows, beams, 1, -1)
            new = jnp.stack(self.kv(p, norm(p, x)))[None]
            kv = jax.lax.dynamic_update_slice(kv, new, (i, 0, 0, 0, index, 0))
            k, v = kv[i]
            if ancestry is not None:
                at = jnp.maximum(ancestry, 0)[..., None]
                k, v = (jnp.take_along_axis(each, at, axis=1) for each in (k, v))
            x = self.attend(p, x, k, v, seen)[0].reshape(len(mask), -1, self.config.width)
            x = self.attend(p, x, keys, values, mask[:, None])[0]
        return x.reshape(len(tokens), -1), ToyCache(kv)

    def decode_hidden_several(
        self, params: Any, tokens: Any, cross_kv: Any, mask: Any, cache: Any, index: Any
    ) -> Any:
        out = []
        for i in range(tokens.shape[1]):
            step = (tokens[:, i], cross_kv, mask, cache, index + i)
            x, cache = self.decode_hidden(params, *step)
            out.append(x)
        return jnp.stack(out, 1), cache

    def logits(self, params: Any, hidden: jax.Array) -> jax.Array:
        return head(params, hidden)

    def ranking_head(self, params: Any) -> None:
        return None  # the logits have a bias

    def trace_encoder(self, params: Any, input_ids: Any, segments: Any) -> EncoderTrace:
        x = embed(params, input_ids, jnp.arange(input_ids.shape[1]))
        mask, attention, hidden = together(segments, segments), [], [x]
        for p in self.layers(params["encoder"]):
            x, w = self.attend(p, x, *self.kv(p, norm(p, x)), mask)
            attention.append(w[:, None])
            hidden.append(x)
        return EncoderTrace(jnp.stack(attention, 1), jnp.stack(hidden, 1))

    def trace_decoder(
        self, params: Any, hidden: Any, segments: Any, ids: Any, own: Any = None
    ) -> DecoderTrace:
        own = jnp.ones_like(ids) if own is None else own
        x, length = embed(params, ids, jnp.arange(ids.shape[1])), ids.shape[1]
        causal = together(own, own) & jnp.tril(jnp.ones((length, length), bool))
        to_self, to_input, states = [], [], [x]
        for p in self.layers(params["decoder"]):
            x, w = self.attend(p, x, *self.kv(p, norm(p, x)), causal)
            to_self.append(w[:, None])
            x, w = self.attend(p, x, *self.kv(p, hidden), together(own, segments))
            to_input.append(w[:, None])
            states.append(x)
        return DecoderTrace(*(jnp.stack(each, 1) for each in (to_self, to_input, states)))


def layout(config: ToyConfig) -> dict[str, Leaf]:
    names = "token/embedding token/positions token/logits_bias layers/scale layers/shift"
    names += " layers/query layers/query_bias"
    return {name: same(name.rpartition("/")[2]) for name in names.split()} | {
        "layers/key_value": Leaf(("key", "value"), (1, 0), axis=0, contracted=1),
        "layers/key_value_bias": Leaf(("key_bias", "value_bias"), axis=0),
    }


TOY = Family(
    name="toy",
    config=ToyConfig,
    variants={},
    training=Toy,
    serving=FastToy,
    layout=layout,
    depths=lambda c: {"encoder": c.depth, "decoder": c.depth},
    step_flops=lambda c, batch, inputs, targets: 18.0 * batch * (inputs + targets) * c.width**2,
    sizes=lambda c: Sizes(2 * c.depth * c.width, c.depth * c.width, c.depth * c.width, 3 * c.width),
)
