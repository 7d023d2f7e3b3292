"""`BartConfig`: the architecture of BART, mBART, PEGASUS, Marian, M2M-100 or NLLB."""

from __future__ import annotations

import dataclasses
from typing import Literal

from t5jax.knobs import check_knobs, knob

Activation = Literal["gelu", "gelu_new", "relu", "silu"]
Positions = Literal["learned", "sines", "offset_sines"]
# More than any model has; a damaged file cannot ask for more.
_MOST_LAYERS = 10_000


@dataclasses.dataclass(frozen=True)
class BartConfig:
    """The architecture of one encoder-decoder with BART's layers.

    The defaults are those of bart-base. Lewis et al. 2019 (arXiv:1910.13461), section 2.

    Raises:
      ValueError: a value has the wrong type, or is out of range.
    """

    vocab_size: int = knob(50265, "rows of the embedding", least=1)
    d_model: int = knob(768, "width of the residual stream", least=1)
    encoder_layers: int = knob(6, "layers of the encoder", least=1, most=_MOST_LAYERS)
    decoder_layers: int = knob(6, "layers of the decoder", least=1, most=_MOST_LAYERS)
    encoder_attention_heads: int = knob(12, "attention heads of the encoder", least=1)
    decoder_attention_heads: int = knob(12, "attention heads of the decoder", least=1)
    encoder_ffn_dim: int = knob(3072, "width of the encoder's MLP", least=1)
    decoder_ffn_dim: int = knob(3072, "width of the decoder's MLP", least=1)
    activation_function: Activation = knob(
        "gelu", "the MLP's non-linearity: gelu (exact), gelu_new (its tanh form), relu, silu"
    )
    norm_first: bool = knob(
        False, "norm before each sub-layer and at the end of a stack (mBART, PEGASUS, M2M-100)"
    )
    embedding_norm: bool = knob(True, "norm of the embeddings (BART, mBART)")
    scale_embedding: bool = knob(False, "multiply embeddings by the root of d_model (all but BART)")
    logits_bias: bool = knob(False, "the head has a bias (Marian)")
    positions: Positions = knob(
        "learned",
        "position embeddings: learned (BART, mBART), sines (PEGASUS, Marian), or offset_sines, "
        "which count from pad_token_id + 1 and are zero at padding (M2M-100, NLLB)",
    )
    position_offset: int = knob(2, "unused first rows of learned positions (BART, mBART)", least=0)
    max_encoder_positions: int = knob(
        1024, "longest input, but for offset_sines, which have no limit", least=1
    )
    max_decoder_positions: int = knob(
        1024, "longest output, but for offset_sines, which have no limit", least=1
    )
    dropout: float = knob(0.1, "dropout rate of sub-layers and embeddings", least=0, below=1)
    attention_dropout: float = knob(0.0, "dropout rate of attention weights", least=0, below=1)
    activation_dropout: float = knob(0.0, "dropout rate within the MLP", least=0, below=1)
    encoder_layerdrop: float = knob(
        0.0, "share of encoder layers that a training step skips", least=0, below=1
    )
    decoder_layerdrop: float = knob(
        0.0, "share of decoder layers that a training step skips", least=0, below=1
    )
    pad_token_id: int = knob(1, "id of padding, masked everywhere", least=0)
    eos_token_id: int = knob(2, "id that ends a sequence", least=0)
    decoder_start_token_id: int = knob(2, "the decoder's first input", least=0)

    def __post_init__(self) -> None:
        check_knobs(self)
        for stack in ("encoder", "decoder"):
            heads = getattr(self, f"{stack}_attention_heads")
            if self.d_model % heads:
                raise ValueError(
                    f"d_model={self.d_model} does not divide over {stack}_attention_heads={heads}"
                )
        if self.positions != "learned" and self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} must be even for positions={self.positions}")
        if self.positions == "offset_sines" and self.d_model < 4:
            raise ValueError(f"d_model={self.d_model} must be 4 or more for offset_sines")
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be less than vocab_size={self.vocab_size}"
                )

    @property
    def encoder_only(self) -> bool:
        """There is a decoder."""
        return False

    @property
    def longest_input(self) -> int | None:
        """Positions of the encoder; None: no limit."""
        return None if self.positions == "offset_sines" else self.max_encoder_positions

    @property
    def longest_output(self) -> int | None:
        """Positions of the decoder; None: no limit."""
        return None if self.positions == "offset_sines" else self.max_decoder_positions

    def replace(self, **changes) -> BartConfig:
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)
