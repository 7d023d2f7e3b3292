"""Stop strings: an automaton over the text of tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5jax.decoding.processors import round_up


@flax.struct.dataclass
class StopStrings:
    """Finds stop strings while ids are generated.

    A stop string may begin and end inside tokens. A state is the longest suffix of the text that is
    a prefix of a stop string (Aho and Corasick 1975).

    Attributes:
      table: int32[states, V], the state after an id, plus `states` if a stop string ends in the
        id's text. Ids beyond V have no text.
    """

    table: Any

    @classmethod
    def of(cls, strings: Sequence[str], texts: Sequence[bytes]) -> StopStrings:
        """From stop strings and each id's UTF-8 text."""
        return cls(_table(tuple(strings), tuple(texts)))

    def cuts(self, ids: Sequence[int]) -> bool:
        """Whether an output of these ids would end before its last id."""
        states, vocab = self.table.shape
        state = 0
        for token in ids[:-1]:
            state = int(self.table[state, token]) if token < vocab else state
            if state >= states:
                return True
        return False

    def start(self, rows: int) -> jax.Array:
        """The state int32[R] of rows without text."""
        return jnp.zeros(rows, jnp.int32)

    def advance(self, state: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The state after one more id a row, int32[R], and bool[R]: the id completed a string."""
        table = jnp.asarray(self.table)
        states, vocab = table.shape
        after = table[state, jnp.minimum(tokens, vocab - 1)]
        after = jnp.where(tokens < vocab, after, state)
        return after % states, after >= states


@functools.lru_cache(maxsize=8)
def _table(strings: tuple[str, ...], texts: tuple[bytes, ...]) -> np.ndarray:
    follow, ends = _automaton([string.encode() for string in strings])
    states = len(follow)
    lengths = np.array([len(text) for text in texts])
    padded = np.zeros((len(texts), max(lengths.max(initial=0), 1)), np.uint8)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    after = np.repeat(np.arange(states)[:, None], len(texts), axis=1)
    hit = np.zeros_like(after, bool)
    for i in range(padded.shape[1]):
        (longer,) = np.nonzero(lengths > i)
        after[:, longer] = follow[after[:, longer], padded[longer, i]]
        hit[:, longer] |= ends[after[:, longer]]
    rounded = max(8, round_up(states))
    table = np.zeros((rounded, len(texts)), np.int32)
    table[:states] = after + hit * rounded
    return table


def _automaton(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """int[states, 256], the state after each byte, and bool[states]: a string ends in the state."""
    children: list[dict[int, int]] = [{}]
    ending = [False]
    for string in strings:
        node = 0
        for byte in string:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
                ending.append(False)
            node = children[node][byte]
        ending[node] = True
    follow = np.zeros((len(children), 256), np.int64)
    ends = np.array(ending)
    # Breadth first: a state copies its longest proper suffix, except for its own children.
    queue = [(0, 0)]
    for node, fallback in queue:
        if node:
            follow[node] = follow[fallback]
            ends[node] |= ends[fallback]
        behind = follow[node].copy()
        for byte, child in children[node].items():
            queue.append((child, int(behind[byte]) if node else 0))
            follow[node, byte] = child
    return follow, ends
