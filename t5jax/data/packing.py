"""Packing: whole examples side by side in a row, numbered by segment ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from t5jax.batch import Batch
from t5jax.config import LengthsConfig
from t5jax.model.contract import ModelConfig

# Inputs int32[n], targets int32[m]; n, m > 0, and no id is the model's padding.
TokenPair = tuple[np.ndarray, np.ndarray]


class ModelIds(NamedTuple):
    """The ids that rows for a model are made of.

    Attributes:
      end: one past the highest id; None: the vocabulary's size.
      pad: padding.
      start: the decoder's first input.
    """

    end: int | None = None
    pad: int = 0
    start: int = 0

    @classmethod
    def of(cls, config: ModelConfig) -> ModelIds:
        """The ids of a configuration."""
        return cls(config.vocab_size, config.pad_token_id, config.decoder_start_token_id)


# Padding and start as seqio has them.
SEQIO_IDS = ModelIds()

WAITING = 32  # examples kept for the next call: more fill rows better, but change the order more


class Examples:
    """Examples in two arrays, which are quick to save, restore and compare.

    Attributes:
      ids: int32[k], the examples' inputs and targets, concatenated.
      cuts: int64[2 * len + 1], the start of each sequence, and the end of the last.
    """

    def __init__(self, ids: np.ndarray, cuts: np.ndarray):
        self.ids = ids
        self.cuts = cuts

    @classmethod
    def of(cls, examples: Iterable[TokenPair]) -> Examples:
        """Copies the examples."""
        sequences = list(chain.from_iterable(examples))
        cuts = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *sequences], dtype=np.int32), cuts)

    def __len__(self) -> int:
        return len(self.cuts) // 2

    def __getitem__(self, index: int) -> TokenPair:
        start, middle, end = self.cuts[2 * index : 2 * index + 3]
        return self.ids[start:middle], self.ids[middle:end]

    def __iter__(self) -> Iterator[TokenPair]:
        return map(self.__getitem__, range(len(self)))


def pack(
    waiting: Sequence[TokenPair], take: Callable[[], TokenPair], rows: int, lengths: LengthsConfig
) -> tuple[list[list[TokenPair]], list[TokenPair]]:
    """Packs `rows` rows; each example goes into the first row with room for it.

    Examples come from `waiting` (at most 32), then from `take`, until 32 examples fit no row. Those
    are the next call's `waiting`. Its first example always fits, so no example waits more than 32
    calls.

    Returns:
      The examples of each row, and the examples that fit no row.
    """
    placed: list[list[TokenPair]] = [[] for _ in range(rows)]
    room = [(lengths.inputs, lengths.targets)] * rows
    left: list[TokenPair] = []
    for inputs, targets in chain(waiting, iter(take, None)):
        n, m = len(inputs), len(targets)
        for row, (inputs_room, targets_room) in enumerate(room):
            if n <= inputs_room and m <= targets_room:
                placed[row].append((inputs, targets))
                room[row] = (inputs_room - n, targets_room - m)
                break
        else:
            left.append((inputs, targets))
            if len(left) == WAITING:
                break
    return placed, left


def to_batch(rows: Sequence[Sequence[TokenPair]], lengths: LengthsConfig, ids: ModelIds) -> Batch:
    """A numpy Batch; row i holds the examples rows[i], which must fit into `lengths`."""
    inputs = np.full((len(rows), lengths.inputs), ids.pad, np.int32)
    targets = np.full((len(rows), lengths.targets), ids.pad, np.int32)
    inputs_segments = np.zeros_like(inputs)
    targets_segments = np.zeros_like(targets)
    for row, examples in enumerate(rows):
        n = m = 0
        for segment, (x, y) in enumerate(examples, start=1):
            inputs[row, n : n + len(x)] = x
            inputs_segments[row, n : n + len(x)] = segment
            targets[row, m : m + len(y)] = y
            targets_segments[row, m : m + len(y)] = segment
            n += len(x)
            m += len(y)
    # An example's decoder inputs: the start id, then its targets but the last.
    shifted = np.where(targets_segments > 0, ids.start, ids.pad).astype(np.int32)
    within = (targets_segments[:, 1:] == targets_segments[:, :-1]) & (targets_segments[:, 1:] > 0)
    shifted[:, 1:][within] = targets[:, :-1][within]
    return Batch(
        encoder_input_tokens=inputs,
        encoder_segment_ids=inputs_segments,
        decoder_input_tokens=shifted,
        decoder_target_tokens=targets,
        decoder_segment_ids=targets_segments,
        decoder_loss_weights=(targets_segments > 0).astype(np.float32),
    )
