"""Beam search for outputs that hold given phrases.

Dynamic beam allocation (Post and Vilar 2018, arXiv:1804.06609): beams are divided among banks, a
bank for each number of phrase ids done. So likelier hypotheses with fewer ids done do not displace
the others, and the most advanced one advances at each step. An automaton tracks progress (Aho and
Corasick 1975), so phrases may overlap, and may come up unforced.

Letters: B inputs, K beams, W candidates of a beam, V vocabulary, N states, C phrases, A ids that
are in a phrase.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5jax.decoding.processors import round_up
from t5jax.ops.selection import largest


@flax.struct.dataclass
class Progress:
    """Rows' progress: `node` int32[…], the automaton's state; `met` bool[…, C], phrases done."""

    node: jax.Array
    met: jax.Array


class Candidates(NamedTuple):
    """[B, M] each: total scores, parent beams, ids, and phrase ids done (None without phrases)."""

    scores: jax.Array
    parents: jax.Array
    chosen: jax.Array
    bank: jax.Array | None = None


@flax.struct.dataclass
class PhraseAutomaton:
    """An automaton over ids that tracks phrases done and progress in the current phrase.

    A state is the longest suffix of the output that is a prefix of a phrase.

    Attributes:
      ids: int32[A], the ids in phrases; beyond the vocabulary in unused places.
      letters: int32[V], the index of each id in `ids`; A: not in a phrase.
      follow: int32[N, A + 1], the state after an id.
      missing: int32[N, C], ids still missing from a phrase, or from its nearest alternative; 0 in a
        state that completes it.
    """

    ids: Any
    letters: Any
    follow: Any
    missing: Any

    @classmethod
    def of(cls, phrases: Sequence[Sequence[Sequence[int]]], vocab: int) -> PhraseAutomaton:
        """From alternatives of each phrase; sizes are rounded up to avoid recompiles."""
        words = [(c, word) for c, phrase in enumerate(phrases) for word in phrase]
        alphabet = sorted({i for _, word in words for i in word})
        size = round_up(len(alphabet))
        ids = np.full(size, vocab, np.int32)
        ids[: len(alphabet)] = alphabet
        letters = np.full(vocab, size, np.int32)
        letters[alphabet] = np.arange(len(alphabet))
        never = np.iinfo(np.int32).max
        children: list[dict[int, int]] = [{}]
        missing = [[never] * len(phrases)]
        for c, word in words:
            node = 0
            for behind, letter in enumerate([*letters[list(word)].tolist(), None]):
                missing[node][c] = min(missing[node][c], len(word) - behind)
                if letter is None:
                    break
                if letter not in children[node]:
                    children[node][letter] = len(children)
                    children.append({})
                    missing.append([never] * len(phrases))
                node = children[node][letter]
        nodes = round_up(len(children))
        follow = np.zeros((nodes, size + 1), np.int32)
        # 0 missing ids in the columns that pad C.
        least = np.zeros((nodes, round_up(len(phrases))), np.int32)
        least[: len(children), : len(phrases)] = missing
        # Breadth first: a state copies its longest proper suffix, except for its own children.
        queue = [(0, 0)]
        for node, fallback in queue:
            if node:
                follow[node] = follow[fallback]
                least[node] = np.minimum(least[node], least[fallback])
            behind_it = follow[node].copy()
            for letter, child in children[node].items():
                queue.append((child, int(behind_it[letter]) if node else 0))
                follow[node, letter] = child
        return cls(ids, letters, follow, least)

    @property
    def sizes(self) -> Any:
        """int32[C]: the number of ids of each phrase, or of its shortest alternative."""
        return jnp.asarray(self.missing)[0]

    def start(self, rows: int) -> Progress:
        """The progress of rows without ids."""
        return Progress(
            jnp.zeros(rows, jnp.int32), jnp.broadcast_to(self.sizes == 0, (rows, len(self.sizes)))
        )

    def advance(self, state: Progress, tokens: jax.Array) -> Progress:
        """The progress after one more id a row, int32[…]."""
        node = jnp.asarray(self.follow)[state.node, jnp.asarray(self.letters)[tokens]]
        return Progress(node, state.met | (jnp.asarray(self.missing)[node] == 0))

    def bank(self, state: Progress) -> jax.Array:
        """int32[…]: the number of phrase ids done, the current phrase included."""
        there = self.sizes - jnp.asarray(self.missing)[state.node]
        begun = jnp.max(jnp.where(state.met, 0, there), axis=-1)
        return jnp.sum(jnp.where(state.met, self.sizes, 0), axis=-1) + begun

    def holds(self, state: Progress) -> jax.Array:
        """bool[…]: all phrases are done."""
        return jnp.all(state.met, axis=-1)

    @property
    def whole(self) -> jax.Array:
        """int32 scalar: the bank of hypotheses with all phrases."""
        return jnp.sum(self.sizes)

    def candidates(self, totals: jax.Array, state: Progress, eos: Sequence[int]) -> Candidates:
        """Each beam's likeliest ids, all ids of phrases, and EOS if all phrases are done.

        Args:
          totals: float32[B, K, V], scores after each id.
          state: leaves [B, K, …].
          eos: ids that end a hypothesis; not in a phrase.
        """
        batch, beams, vocab = totals.shape
        special = jnp.concatenate([jnp.asarray(self.ids), jnp.asarray(eos)])
        plain = totals.at[:, :, special].set(-jnp.inf, mode="drop").reshape(-1, vocab)
        best, likeliest = largest(plain, min(2 * beams, vocab))
        there = jnp.take(totals, special, axis=2, mode="fill", fill_value=-jnp.inf)
        ends = jnp.arange(len(special)) >= len(self.ids)
        there = jnp.where(ends & ~self.holds(state)[..., None], -jnp.inf, there)
        scores = jnp.concatenate([best.reshape(batch, beams, -1), there], axis=2)
        ids = jnp.concatenate(
            [
                likeliest.reshape(batch, beams, -1),
                jnp.broadcast_to(jnp.minimum(special, vocab - 1), there.shape),
            ],
            axis=2,
        ).astype(jnp.int32)
        each = Progress(state.node[..., None], state.met[:, :, None])
        bank = self.bank(self.advance(each, ids))
        parents = jnp.broadcast_to(jnp.arange(beams)[:, None], ids.shape)
        return Candidates(*(x.reshape(batch, -1) for x in (scores, parents, ids, bank)))


def places(scores: jax.Array, bank: jax.Array) -> jax.Array:
    """int32[B, M]: each candidate's rank by score within its bank, from 0."""
    order = jnp.lexsort((-scores, -bank), axis=-1)
    rows = jnp.arange(len(scores))[:, None]
    at = jnp.arange(scores.shape[1])
    new = jnp.diff(bank[rows, order], axis=1, prepend=bank.max() + 1) != 0
    began = jax.lax.cummax(jnp.where(new, at, 0), axis=1)
    return jnp.zeros_like(order).at[rows, order].set(at - began)


def share_out(scores: jax.Array, bank: jax.Array, beams: int) -> tuple[jax.Array, jax.Array]:
    """Selects the best candidate of each bank, then the second of each, …; advanced banks first.

    Returns:
      Scores float32[B, K] in descending order, and indices of candidates int32[B, K].
    """
    order = jnp.lexsort((-bank, places(scores, bank), scores == -jnp.inf), axis=-1)[:, :beams]
    kept, again = jax.lax.top_k(jnp.take_along_axis(scores, order, axis=1), beams)
    return kept, jnp.take_along_axis(order, again, axis=1)
