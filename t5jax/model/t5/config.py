"""`T5Config`: the architecture of a T5."""

from __future__ import annotations

import dataclasses
from typing import Literal

from t5jax.knobs import check_knobs, knob

MLPKind = Literal["relu", "gelu", "gelu_new", "silu", "gated-relu", "gated-gelu", "gated-silu"]
# More than any model has; a damaged file cannot ask for more.
_MOST_LAYERS = 10_000
_MOST_WEIGHTS = 2**40  # in one array


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The architecture of one T5, with the field names of Hugging Face's `T5Config`.

    Raises:
      ValueError: a value has the wrong type, or is out of range.
    """

    vocab_size: int = knob(
        32128, "rows of the embedding, padded (128-multiples shard well)", least=1
    )
    d_model: int = knob(512, "width of the residual stream", least=1)
    d_kv: int = knob(64, "width of one attention head", least=1)
    d_ff: int = knob(1024, "width of the MLP's hidden layer", least=1)
    num_heads: int = knob(6, "attention heads", least=1)
    num_layers: int = knob(8, "layers of the encoder", least=1, most=_MOST_LAYERS)
    num_decoder_layers: int = knob(
        8, "layers of the decoder; 0: encoder only", least=0, most=_MOST_LAYERS
    )
    feed_forward_proj: MLPKind = knob(
        "gated-gelu",
        "MLP: relu (T5 1.0), gated-gelu (1.1, mT5, ByT5, Flan), gated-silu (UL2), gated-relu; "
        "silu, gelu (exact), gelu_new (its tanh form, which the gated one has too)",
    )
    tie_word_embeddings: bool = knob(False, "the output head is the embedding table (T5 1.0)")
    scale_decoder_outputs: bool = knob(
        False, "multiply the decoder's output by d_model^-0.5 before the head (T5 1.0)"
    )
    relative_bias: Literal["shared", "per_layer"] = knob(
        "shared", "one relative-position table a stack, or a table in each layer (umT5)"
    )
    relative_attention_num_buckets: int = knob(32, "rows of the relative-position table", least=1)
    relative_attention_max_distance: int = knob(
        128, "distance beyond which all share the last bucket", least=1
    )
    encoder_attention_type: Literal["full", "local", "transient-global"] = knob(
        "full", "encoder attention: full, or LongT5's local or transient-global"
    )
    local_radius: int = knob(127, "LongT5: neighbours that a token sees on each side", least=1)
    global_block_size: int = knob(16, "LongT5: tokens summed into a global token", least=1)
    layer_norm_epsilon: float = knob(1e-6, "added to the variance in RMSNorm", above=0)
    dropout: float = knob(0.0, "dropout rate in training", least=0, below=1)
    pad_token_id: int = knob(0, "id of padding, masked everywhere", least=0)
    eos_token_id: int = knob(1, "id that ends a sequence", least=0)
    decoder_start_token_id: int = knob(0, "the decoder's first input", least=0)

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.long and self.relative_bias == "per_layer":
            raise ValueError(
                f"encoder_attention_type={self.encoder_attention_type!r} has one relative bias for "
                "all layers; use relative_bias='shared'"
            )
        for name in ("vocab_size", "d_ff", "num_heads"):
            weights = self.d_model * getattr(self, name) * (self.d_kv if "heads" in name else 1)
            if weights > _MOST_WEIGHTS:
                raise ValueError(
                    f"{name}={getattr(self, name)} with d_model={self.d_model} makes arrays of "
                    f"{weights:.1e} weights; at most {_MOST_WEIGHTS:.1e} are supported"
                )
        # An odd number is allowed; like transformers, its last row is unused.
        if self.relative_attention_num_buckets < 4:
            raise ValueError(
                f"relative_attention_num_buckets={self.relative_attention_num_buckets} "
                "must be at least 4 (two signs, exact and logarithmic halves)"
            )
        half, most = self.relative_attention_num_buckets // 2, self.relative_attention_max_distance
        if most <= half:
            raise ValueError(
                f"relative_attention_max_distance={most} must be more than {half}, half of "
                "relative_attention_num_buckets: nearer distances have a bucket each"
            )
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be less than vocab_size={self.vocab_size}"
                )

    @property
    def encoder_only(self) -> bool:
        """Whether there is no decoder."""
        return self.num_decoder_layers == 0

    @property
    def tied_head(self) -> bool:
        """Whether there is no head kernel: the embedding is the head, or there is no decoder."""
        return self.tie_word_embeddings or self.encoder_only

    @property
    def longest_input(self) -> None:
        """Relative positions have no limit."""

    @property
    def longest_output(self) -> None:
        """Relative positions have no limit."""

    @property
    def gated(self) -> bool:
        """Whether the MLP has two input projections, of which the first is activated."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def long(self) -> bool:
        """Whether the encoder's attention is LongT5's, linear in the input's length."""
        return self.encoder_attention_type != "full"

    @property
    def global_tokens(self) -> bool:
        """Whether encoder tokens also see a global token for each block of tokens."""
        return self.encoder_attention_type == "transient-global"

    def replace(self, **changes) -> T5Config:
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)
