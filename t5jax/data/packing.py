"""Examples to rows: whole examples side by side in a row, numbered by segment ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from t5jax.batch import Batch
from t5jax.config import LengthsConfig

Example = tuple[np.ndarray, np.ndarray]  # inputs int32[n], targets int32[m]; n, m > 0 and no id 0


_WAITING = 32  # examples carried from call to call: more fill rows better, and stray further


class Examples:
    """Any number of examples in two arrays, so that they are quickly saved, restored and compared.

    Attributes:
      ids: int32[k], inputs and targets of one example after those of another.
      cuts: int64[2 * len + 1], where each of these sequences begins, and the end of the last.
    """

    def __init__(self, ids: np.ndarray, cuts: np.ndarray):
        self.ids = ids
        self.cuts = cuts

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Examples:
        """A copy of the examples."""
        sequences = list(chain.from_iterable(examples))
        cuts = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *sequences], dtype=np.int32), cuts)

    def __len__(self) -> int:
        return len(self.cuts) // 2

    def __getitem__(self, index: int) -> Example:
        start, middle, end = self.cuts[2 * index : 2 * index + 3]
        return self.ids[start:middle], self.ids[middle:end]

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))


def pack(
    waiting: Sequence[Example], take: Callable[[], Example], rows: int, lengths: LengthsConfig
) -> tuple[list[list[Example]], list[Example]]:
    """Fills `rows` rows, each example going into the first row that has room for it.

    Examples come from `waiting` (fewer than 33), then from `take`, until 32 of them fitted nowhere.
    These are returned, to be the next call's `waiting`: they come first then, and the first of them
    always fits, so that none waits for more than 32 calls.

    Returns:
      The examples of each row, and those that fitted nowhere.
    """
    placed: list[list[Example]] = [[] for _ in range(rows)]
    room = [(lengths.inputs, lengths.targets)] * rows
    left: list[Example] = []
    for inputs, targets in chain(waiting, iter(take, None)):
        n, m = len(inputs), len(targets)
        for row, (inputs_room, targets_room) in enumerate(room):
            if n <= inputs_room and m <= targets_room:
                placed[row].append((inputs, targets))
                room[row] = (inputs_room - n, targets_room - m)
                break
        else:
            left.append((inputs, targets))
            if len(left) == _WAITING:
                break
    return placed, left


def to_batch(rows: Sequence[Sequence[Example]], lengths: LengthsConfig) -> Batch:
    """A numpy Batch whose row i holds the examples rows[i], in their order; it may hold none.

    Each row's examples must fit into `lengths`.
    """
    inputs = np.zeros((len(rows), lengths.inputs), np.int32)
    targets = np.zeros((len(rows), lengths.targets), np.int32)
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
    within = targets_segments[:, 1:] == targets_segments[:, :-1]
    shifted = np.zeros_like(targets)
    shifted[:, 1:] = targets[:, :-1] * within
    return Batch(
        encoder_input_tokens=inputs,
        encoder_segment_ids=inputs_segments,
        decoder_input_tokens=shifted,
        decoder_target_tokens=targets,
        decoder_segment_ids=targets_segments,
        decoder_loss_weights=(targets != 0).astype(np.float32),
    )
