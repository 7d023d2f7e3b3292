"""Constrained output: the ids that may follow in a set of allowed answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5jax.decoding.processors import FORBIDDEN, Context, Processor


@flax.struct.dataclass
class Answers(Processor):
    """A trie of answers: only their ids follow one another, and an end only where one is whole.

    Edges are sorted by the node they leave: those of node n are `first[n]` to `first[n + 1] - 1`.
    Node 0 is the root. Ids that were given (a forced prefix) are no part of an answer.

    Attributes:
      first: int32[nodes + 1].
      tokens, children: int32[edges + width], the id of each edge and the node it leads to.
      width: the largest number of edges of a node, rounded up.
    """

    first: Any
    tokens: Any
    children: Any
    width: int = flax.struct.field(pytree_node=False)

    forbids = True

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]], eos: Sequence[int]) -> Answers:
        """From answers without EOS; after each, any of `eos` may follow.

        Sizes are rounded up to powers of two, so that few programs serve all sets.
        """
        edges: list[dict[int, int]] = [{}]
        for answer in answers:
            node = 0
            for token in answer:
                if token not in edges[node]:
                    edges[node][token] = len(edges)
                    edges.append({})
                node = edges[node][token]
            edges[node].update({i: -1 for i in eos if i not in edges[node]})
        # Nothing follows an end: all ends are one node without edges.
        end = len(edges)
        counts = [len(e) for e in edges]
        width = _round_up(max(counts))
        nodes, total = _round_up(end + 1), _round_up(sum(counts))
        first = np.full(nodes + 1, sum(counts), np.int32)
        first[: end + 1] = np.concatenate([[0], np.cumsum(counts)])
        tokens, children = np.zeros((2, total + width), np.int32)
        tokens[: sum(counts)] = [t for e in edges for t in e]
        children[: sum(counts)] = [c if c >= 0 else end for e in edges for c in e.values()]
        return cls(first, tokens, children, width)

    def start(self, rows: int) -> jax.Array:
        return jnp.zeros(rows, jnp.int32)

    def advance(self, state: jax.Array, tokens: jax.Array, decided: jax.Array) -> jax.Array:
        at, there = self._edges(state)
        taken = there & (jnp.asarray(self.tokens)[at] == tokens[:, None])
        children = jnp.asarray(self.children)[at]
        # An id that no edge has belongs to a row that is past its end; it stays there.
        node = jnp.where(taken.any(axis=1), jnp.max(jnp.where(taken, children, 0), axis=1), state)
        return jnp.where(decided, node, state)

    def __call__(self, logits: jax.Array, context: Context, state: jax.Array) -> jax.Array:
        at, there = self._edges(state)
        rows, vocab = logits.shape
        ids = jnp.where(there, jnp.asarray(self.tokens)[at], vocab)
        allowed = jnp.zeros((rows, vocab), bool)
        allowed = allowed.at[jnp.arange(rows)[:, None], ids].set(True, mode="drop")
        kept = jnp.where(allowed, logits, -jnp.inf)
        # Where other options forbid all that an answer goes on with, the answer wins; in beam
        # search only if no beam of the input can go on.
        possible = jnp.any(kept > FORBIDDEN, axis=1) & context.live
        possible = possible.reshape(-1, context.beams).any(axis=1)
        possible = jnp.repeat(possible, context.beams)[:, None]
        return jnp.where(possible, kept, jnp.where(allowed, 0.0, -jnp.inf))

    def _edges(self, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Nodes int32[R] -> edges int32[R, width] and which of them leave the node."""
        first = jnp.asarray(self.first)
        at = first[nodes][:, None] + jnp.arange(self.width)
        return at, at < first[nodes + 1][:, None]


def _round_up(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
