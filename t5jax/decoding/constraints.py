"""Constrained decoding: outputs from a set of allowed answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5jax import user_code
from t5jax.decoding.option_values import ids as read_ids
from t5jax.decoding.processors import FORBIDDEN, Context, Processor, round_up
from t5jax.knobs import short

# transformers' `prefix_allowed_tokens_fn(number of the input, ids so far) -> ids allowed next`.
AllowedTokens = Callable[[int, np.ndarray], Sequence[int]]

# Most calls of the function for one input.
BEGINNINGS = 100_000


@flax.struct.dataclass
class AnswerTrie(Processor):
    """A trie of allowed answers; EOS may follow a whole answer only.

    The edges of node n are `first[n]` to `first[n + 1] - 1`. Node 0 is the root. A forced prefix is
    not part of an answer.

    Attributes:
      first: int32[nodes + 1], the first edge of each node.
      tokens, children: int32[edges + width], the id of each edge and the node it leads to.
      width: the largest number of edges of a node, rounded up.
      roots: int32[B], the root of each input; None: node 0.
    """

    first: Any
    tokens: Any
    children: Any
    width: int = flax.struct.field(pytree_node=False)
    roots: Any = None

    forbids = True

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]], eos: Sequence[int]) -> AnswerTrie:
        """From answers without EOS; each may end with any of `eos`."""
        edges: list[dict[int, int]] = [{}]
        for answer in answers:
            node = 0
            for token in answer:
                if token not in edges[node]:
                    edges[node][token] = len(edges)
                    edges.append({})
                node = edges[node][token]
            edges[node].update({i: -1 for i in eos if i not in edges[node]})
        return cls.of_edges(edges)

    @classmethod
    def of_edges(
        cls, edges: Sequence[dict[int, int]], roots: Sequence[int] | None = None
    ) -> AnswerTrie:
        """From the edges of each node: ids and the nodes that they lead to, -1 for an end.

        Sizes are rounded up to powers of two to avoid recompiles.
        """
        end = len(edges)  # one node without edges for all ends
        counts = [len(e) for e in edges]
        width = round_up(max(counts))
        nodes, total = round_up(end + 1), round_up(sum(counts))
        first = np.full(nodes + 1, sum(counts), np.int32)
        first[: end + 1] = np.concatenate([[0], np.cumsum(counts)])
        tokens, children = np.zeros((2, total + width), np.int32)
        tokens[: sum(counts)] = [t for e in edges for t in e]
        children[: sum(counts)] = [c if c >= 0 else end for e in edges for c in e.values()]
        return cls(
            first, tokens, children, width, None if roots is None else np.array(roots, np.int32)
        )

    def start(self, rows: int) -> jax.Array:
        if self.roots is None:
            return jnp.zeros(rows, jnp.int32)
        return jnp.repeat(jnp.asarray(self.roots), rows // len(self.roots))

    def advance(self, state: jax.Array, tokens: jax.Array, decided: jax.Array) -> jax.Array:
        at, there = self._edges(state)
        taken = there & (jnp.asarray(self.tokens)[at] == tokens[:, None])
        children = jnp.asarray(self.children)[at]
        # An id without an edge belongs to a finished row, which stays where it is.
        node = jnp.where(taken.any(axis=1), jnp.max(jnp.where(taken, children, 0), axis=1), state)
        return jnp.where(decided, node, state)

    def __call__(self, logits: jax.Array, context: Context, state: jax.Array) -> jax.Array:
        at, there = self._edges(state)
        rows, vocab = logits.shape
        ids = jnp.where(there, jnp.asarray(self.tokens)[at], vocab)
        allowed = jnp.zeros((rows, vocab), bool)
        allowed = allowed.at[jnp.arange(rows)[:, None], ids].set(True, mode="drop")
        kept = jnp.where(allowed, logits, -jnp.inf)
        # An answer wins over options that forbid all of its next ids; in beam search only if no
        # beam of the input can continue.
        possible = jnp.any(kept > FORBIDDEN, axis=1) & context.live
        possible = possible.reshape(-1, context.beams).any(axis=1)
        possible = jnp.repeat(possible, context.beams)[:, None]
        return jnp.where(possible, kept, jnp.where(allowed, 0.0, -jnp.inf))

    def _edges(self, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Nodes int32[R] -> edges int32[R, width], and bool[R, width]: the edge leaves the node."""
        first = jnp.asarray(self.first)
        at = first[nodes][:, None] + jnp.arange(self.width)
        return at, at < first[nodes + 1][:, None]


def explore(
    allowed: AllowedTokens,
    numbers: Sequence[int],
    before: Sequence[Sequence[int]],
    *,
    eos: Sequence[int],
    limit: int,
    longest: int,
    rows: int,
) -> AnswerTrie:
    """The trie of all outputs that a `prefix_allowed_tokens_fn` allows.

    Args:
      allowed: the function.
      numbers: the inputs' numbers, its first argument.
      before: for each input, the ids before the first generated id.
      eos: ids that end an output.
      limit: ids are below it.
      longest: most ids of an output.
      rows: rows of the batch, padding rows included.

    Raises:
      ValueError: the function allows nothing, an invalid id, or too many outputs.
    """
    edges: list[dict[int, int]] = []
    roots: list[int] = []
    last: list[dict[int, int]] = []
    for number, given in zip(numbers, before, strict=True):
        found = _outputs(allowed, number, given, eos, limit, longest)
        # Inputs with the same outputs share a trie.
        if found != last:
            roots.append(len(edges))
            edges += [{i: n if n < 0 else n + roots[-1] for i, n in e.items()} for e in found]
        else:
            roots.append(roots[-1])
        last = found
    return AnswerTrie.of_edges(edges, [*roots, *[0] * (rows - len(roots))])


def _outputs(
    allowed: AllowedTokens,
    number: int,
    before: Sequence[int],
    eos: Sequence[int],
    limit: int,
    longest: int,
) -> list[dict[int, int]]:
    """The edges of one input's trie, for `AnswerTrie.of_edges`."""
    edges: list[dict[int, int]] = [{}]
    queue: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for node, ids in queue:
        if len(ids) == longest:
            continue
        so_far = [*before, *ids]
        with user_code.running("prefix_allowed_tokens_fn"):
            answer = allowed(number, np.array(so_far, np.int64))
        where = f"for input {number} after {short(so_far)}"
        try:
            following = sorted(set(read_ids(answer)))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"prefix_allowed_tokens_fn gives {short(answer)} {where}; it must give ids"
            ) from None
        if not following:
            raise ValueError(
                f"prefix_allowed_tokens_fn allows nothing {where}; give at least an EOS"
            )
        if following[-1] >= limit:
            raise ValueError(
                f"prefix_allowed_tokens_fn allows id {short(following[-1])} {where}; the "
                f"vocabulary has ids 0 to {limit - 1}"
            )
        for i in following:
            edges[node][i] = -1 if i in eos else len(edges)
            if i not in eos:
                queue.append((len(edges), (*ids, i)))
                edges.append({})
        if len(edges) > BEGINNINGS:
            raise ValueError(
                f"prefix_allowed_tokens_fn allows more than {BEGINNINGS:,} beginnings of outputs "
                f"of {longest} tokens; for rules that are no list of outputs give a "
                "logits_processor, which is asked at each step"
            )
    return edges
