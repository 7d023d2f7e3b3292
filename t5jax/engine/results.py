"""`Generation`: what decoding gives, put together from its batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Guesses(NamedTuple):
    """Of an assistant: how many ids it guessed, and how many of those the model chose itself."""

    made: int
    right: int


@dataclasses.dataclass(frozen=True)
class Generation:
    """Results of `generate_ids` for B inputs with n sequences each.

    `ids` int32[B, n, T]: without the start id, with the given prefix and EOS, then padding.
    `lengths` int32[B, n]: tokens, prefix and EOS counted.
    `scores` float32[B, n]: log p(sequence | input) in nats under the model; of beam search
    transformers' `sequences_scores`: the sum of log-probabilities after restrictions, penalised.
    None with `return_scores=False`. Constraints may leave fewer than n hypotheses: those that lack
    are empty, their scores -inf.

    On request, else None:
    `token_scores` float32[B, n, T]: log p of each decided token under the model, in nats.
    `cross_attention` float32[B, n, L, N, T, S]: how much each of N heads of L layers looked at each
    input token when a token was decided; sums to 1 over S.
    `guesses`: of the assistant, where there was one.
    """

    ids: np.ndarray
    scores: np.ndarray | None
    lengths: np.ndarray
    token_scores: np.ndarray | None = None
    cross_attention: np.ndarray | None = None
    guesses: Guesses | None = None


def gather(parts: Sequence[tuple[np.ndarray, Generation]], pad: int) -> Generation:
    """One result from those of parts, at least one, each with the numbers of its inputs."""
    inputs = sum(len(rows) for rows, _ in parts)

    def together(name: str, fill: float = 0) -> Any:
        arrays = [getattr(part, name) for _, part in parts]
        if arrays[0] is None:
            return None
        # Widths differ from batch to batch.
        shape = np.max([array.shape[1:] for array in arrays], axis=0)
        out = np.full((inputs, *shape), fill, arrays[0].dtype)
        for (rows, _), array in zip(parts, arrays, strict=True):
            place: Any = (rows, *map(slice, array.shape[1:]))
            out[place] = array
        return out

    guesses = [part.guesses for _, part in parts if part.guesses]
    return Generation(
        together("ids", pad),
        together("scores"),
        together("lengths"),
        together("token_scores"),
        together("cross_attention"),
        Guesses(*map(sum, zip(*guesses, strict=True))) if guesses else None,
    )
