"""`Batch`: what one training or evaluation step sees. The fields' names are seqio's."""

from __future__ import annotations

import flax.struct
import jax
import numpy as np


@flax.struct.dataclass
class Batch:
    """B rows of S encoder and T decoder tokens; a packed row holds several examples.

    Id 0 is padding. Segment ids number a row's examples from 1; 0 marks padding. Attention stays
    within a segment. A row that holds one example has segment ids 1 where its tokens are.
    """

    encoder_input_tokens: jax.Array | np.ndarray  # int32[B, S]
    encoder_segment_ids: jax.Array | np.ndarray  # int32[B, S]
    decoder_input_tokens: jax.Array | np.ndarray  # int32[B, T], targets shifted, 0 at each start
    decoder_target_tokens: jax.Array | np.ndarray  # int32[B, T]
    decoder_segment_ids: jax.Array | np.ndarray  # int32[B, T]
    decoder_loss_weights: jax.Array | np.ndarray  # float32[B, T], 1 where the loss counts
