"""Position embeddings that are not learned, and positions in packed rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from t5jax.model.bart.config import BartConfig


def table(config: BartConfig, rows: int) -> np.ndarray:
    """float32[rows, D] of the sines: a row a position.

    All sines come before all cosines. Of `sines`, frequency i is 10000^(-2i/D) (Vaswani et al.
    2017, arXiv:1706.03762, section 3.5); of `offset_sines` 10000^(-i/(D/2 - 1)), as in
    tensor2tensor and fairseq, where row p is that of position `pad_token_id` + 1 + p.
    """
    half = config.d_model // 2
    if config.positions == "sines":
        at, exponents = np.arange(rows), np.arange(half) / half
    else:
        at = config.pad_token_id + 1 + np.arange(rows)
        exponents = np.arange(half) / (half - 1)
    angles = at[:, None] * np.power(10000.0, -exponents)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def within_segments(segments: jax.Array, *, padding: bool) -> jax.Array:
    """Segments int[B, S] -> the position of every token in its segment, int32[B, S].

    Segment 1 begins at column 0. With `padding`, padding (segment 0) before a token counts.
    """
    tokens = segments != 0
    count = jnp.arange(segments.shape[1])[None] if padding else jnp.cumsum(tokens, axis=1) - 1
    count = jnp.broadcast_to(count, segments.shape)
    # Where a segment after the first begins, its count so far is what to subtract.
    before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    begins = (segments > 1) & (segments != before)
    start = jax.lax.cummax(jnp.where(begins, count, 0), axis=1)
    return jnp.where(tokens, count - start, 0)
