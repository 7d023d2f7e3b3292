"""The interface of models to decoding, training, evaluation and checkpoint formats.

A family (`t5jax.model.family`) brings a configuration, a training network and a serving network.
The training network is a Linen module over parameters with stacked layers. The serving network is a
hashable value, static under `jax.jit`, whose methods are pure functions of the serving parameters
(`t5jax.model.layout`).

Letters: B inputs, S input tokens, T output tokens, G rows that share an input (samples, beams),
K tokens at once, D width, L layers, N heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import flax.struct
import jax

Params = Mapping[str, Any]


class ModelConfig(Protocol):
    """A frozen dataclass whose fields are declared by `t5jax.knobs.knob`."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding and the head."""

    @property
    def pad_token_id(self) -> int:
        """The padding id; masked everywhere."""

    @property
    def eos_token_id(self) -> int:
        """Ends a sequence."""

    @property
    def decoder_start_token_id(self) -> int:
        """The decoder's first input."""

    @property
    def dropout(self) -> float:
        """The dropout rate in training."""

    @property
    def encoder_only(self) -> bool:
        """Whether there is no decoder."""

    @property
    def longest_input(self) -> int | None:
        """Positions of the encoder; None: no limit."""

    @property
    def longest_output(self) -> int | None:
        """Positions of the decoder; None: no limit."""

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`."""

    def __hash__(self) -> int:
        """Configurations are values."""


class Cache(Protocol):
    """The decoder's KV cache: a pytree of `length` positions."""

    @property
    def length(self) -> int:
        """Number of positions."""

    def extend(self, length: int) -> Self:
        """The cache with `length` positions, more than before."""


@flax.struct.dataclass
class EncoderTrace:
    """Attention weights and hidden states of every encoder layer.

    `attention` float32[B, L, N, S, S] sums to 1 over its last axis, except at padding queries.
    `hidden` [B, L + 1, S, D]: the embedding, and the output of every layer.
    """

    attention: jax.Array
    hidden: jax.Array


@flax.struct.dataclass
class DecoderTrace:
    """Attention weights and hidden states of every decoder layer in a teacher-forced pass.

    `self_attention` float32[B, L, N, T, T] and `cross_attention` float32[B, L, N, T, S] sum to 1
    over their last axis. `hidden` [B, L + 1, T, D]: the embedding, and the output of every layer.
    """

    self_attention: jax.Array
    cross_attention: jax.Array
    hidden: jax.Array


class Network(Protocol):
    """A serving network. Segments int[B, S] are 1 at tokens and 0 at padding."""

    @property
    def config(self) -> Any:
        """The `ModelConfig`."""

    @property
    def dtype(self) -> Any:
        """The compute dtype of NumPy; logits and attention weights are float32."""

    def encode(self, params: Params, input_ids: jax.Array, segments: jax.Array) -> jax.Array:
        """int[B, S] -> hidden states [B, S, D], zero at padding."""

    def decode(
        self, params: Params, hidden: jax.Array, segments: jax.Array, decoder_input_ids: jax.Array
    ) -> jax.Array:
        """Teacher-forced: int[B, T], beginning with the start id -> logits float32[B, T, V]."""

    def cross_kv(self, params: Params, hidden: jax.Array) -> Any:
        """[B, S, D] -> the keys and values of every layer's cross-attention."""

    def init_cache(self, rows: int, length: int, beams: int = 1) -> Any:
        """An empty `Cache` of `rows` rows, or rows of `beams` beams, with `length` positions."""

    def decode_hidden(
        self,
        params: Params,
        tokens: jax.Array,
        cross_kv: Any,
        mask: jax.Array,
        cache: Any,
        index: jax.Array,
        ancestry: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """One more token a row.

        Args:
          tokens: int[B * G].
          cross_kv: of B inputs.
          mask: bool[B, S], True at tokens of the input.
          cache: of B * G rows, or of B rows of G beams.
          index: int32 scalar, the tokens' position.
          ancestry: for beams, int32[B, G, T]: the beam whose slot holds each beam's token at a
            position up to `index`; -1 beyond.

        Returns:
          The decoder's normed output [B * G, D], and the cache with the tokens.
        """

    def decode_hidden_several(
        self,
        params: Params,
        tokens: jax.Array,
        cross_kv: Any,
        mask: jax.Array,
        cache: Any,
        index: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """K more tokens a row, int[B, K], the first at position `index` -> [B, K, D]; no beams.

        With an assistant, up to K - 1 positions may lie at `longest_output` or beyond. Their
        results are not used, but they must be finite.
        """

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """The decoder's normed output [..., D] -> float32[..., V]."""

    def ranking_head(self, params: Params) -> Any | None:
        """A matrix [V, D] whose product with the normed output ranks ids as the logits do.

        None if there is none, as with a logits bias.
        """

    def trace_encoder(
        self, params: Params, input_ids: jax.Array, segments: jax.Array
    ) -> EncoderTrace:
        """`encode`, layer by layer."""

    def trace_decoder(
        self, params: Params, hidden: jax.Array, segments: jax.Array, decoder_input_ids: jax.Array
    ) -> DecoderTrace:
        """`decode`, layer by layer."""
