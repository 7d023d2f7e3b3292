"""Phrases that every output holds, in beam search.

Dynamic beam allocation (Post and Vilar 2018, arXiv:1804.06609): beams are shared out among banks of
hypotheses that have as many ids of the phrases behind them. So those that got on are not pushed out
by likelier ones that did not, and the furthest gets on at each step. An automaton says how far a
hypothesis is (Aho and Corasick 1975), so phrases may overlap, and may come by themselves.

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

from t5jax.ops.selection import largest


@flax.struct.dataclass
class Progress:
    """How far rows are: `node` int32[…], a state; `met` bool[…, C]: phrases that are there."""

    node: jax.Array
    met: jax.Array


class Candidates(NamedTuple):
    """[B, M] each: totals, parents' numbers, ids, ids of phrases behind them.

    Without phrases `bank` is None.
    """

    scores: jax.Array
    parents: jax.Array
    chosen: jax.Array
    bank: jax.Array | None = None


@flax.struct.dataclass
class PhraseAutomaton:
    """An automaton over ids that says which phrases are there and how much of the next one.

    A state is the longest end of what is there that begins a phrase.

    Attributes:
      ids: int32[A], those of the phrases; beyond the vocabulary where there are fewer.
      letters: int32[V], the place of each id among them; A: it is none.
      follow: int32[N, A + 1], the state after an id.
      missing: int32[N, C], ids that a phrase, or the shortest way to one of its alternatives, is
        still away from; 0 in a state that completes it.
    """

    ids: Any
    letters: Any
    follow: Any
    missing: Any

    @classmethod
    def of(cls, phrases: Sequence[Sequence[Sequence[int]]], vocab: int) -> PhraseAutomaton:
        """From alternatives of each phrase. Sizes are rounded up: few programs serve all."""
        words = [(c, word) for c, phrase in enumerate(phrases) for word in phrase]
        alphabet = sorted({i for _, word in words for i in word})
        size = _round_up(len(alphabet))
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
        nodes = _round_up(len(children))
        follow = np.zeros((nodes, size + 1), np.int32)
        # Phrases that there are not miss nothing.
        least = np.zeros((nodes, _round_up(len(phrases))), np.int32)
        least[: len(children), : len(phrases)] = missing
        # By depth: a state behaves as its longest proper end does, but for its own children.
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
        """int32[C]: ids of a phrase, or of its shortest alternative."""
        return jnp.asarray(self.missing)[0]

    def start(self, rows: int) -> Progress:
        """Of rows in which there is no id yet."""
        return Progress(
            jnp.zeros(rows, jnp.int32), jnp.broadcast_to(self.sizes == 0, (rows, len(self.sizes)))
        )

    def advance(self, state: Progress, tokens: jax.Array) -> Progress:
        """After one more id a row, int32[…]."""
        node = jnp.asarray(self.follow)[state.node, jnp.asarray(self.letters)[tokens]]
        return Progress(node, state.met | (jnp.asarray(self.missing)[node] == 0))

    def bank(self, state: Progress) -> jax.Array:
        """int32[…]: ids of phrases that are there, those of the phrase at hand among them."""
        there = self.sizes - jnp.asarray(self.missing)[state.node]
        begun = jnp.max(jnp.where(state.met, 0, there), axis=-1)
        return jnp.sum(jnp.where(state.met, self.sizes, 0), axis=-1) + begun

    def holds(self, state: Progress) -> jax.Array:
        """bool[…]: all phrases are there."""
        return jnp.all(state.met, axis=-1)

    @property
    def whole(self) -> jax.Array:
        """int32 scalar: the bank of hypotheses that hold all phrases."""
        return jnp.sum(self.sizes)

    def candidates(self, totals: jax.Array, state: Progress, eos: Sequence[int]) -> Candidates:
        """Of each beam: its likeliest ids, each id of a phrase, and its ends if it may end.

        Args:
          totals: float32[B, K, V].
          state: leaves [B, K, …].
          eos: ids that end a hypothesis; in no phrase.
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
    """int32[B, M]: each candidate's place in its bank, by score, from 0."""
    order = jnp.lexsort((-scores, -bank), axis=-1)
    rows = jnp.arange(len(scores))[:, None]
    at = jnp.arange(scores.shape[1])
    new = jnp.diff(bank[rows, order], axis=1, prepend=bank.max() + 1) != 0
    began = jax.lax.cummax(jnp.where(new, at, 0), axis=1)
    return jnp.zeros_like(order).at[rows, order].set(at - began)


def share_out(scores: jax.Array, bank: jax.Array, beams: int) -> tuple[jax.Array, jax.Array]:
    """The candidates that go on: the best of each bank, then the second of each, and so on.

    Banks that are further go first.

    Returns:
      Scores float32[B, K] in descending order, and places among the candidates int32[B, K].
    """
    order = jnp.lexsort((-bank, places(scores, bank), scores == -jnp.inf), axis=-1)[:, :beams]
    kept, again = jax.lax.top_k(jnp.take_along_axis(scores, order, axis=1), beams)
    return kept, jnp.take_along_axis(order, again, axis=1)


def _round_up(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
