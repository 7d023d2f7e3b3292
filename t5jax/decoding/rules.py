"""How beam search scores hypotheses and when it stops: transformers' rule, and T5X's.

Letters: B inputs, K beams, M candidates of a step, V vocabulary, T positions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5jax.decoding.options import GenerationOptions
from t5jax.decoding.phrases import PhraseAutomaton
from t5jax.ops.selection import take


@flax.struct.dataclass
class Hypotheses:
    """K hypotheses of each input. A score of minus infinity: there is none."""

    ids: jax.Array  # int32[B, K, 1 + T], -1 behind the last id
    scores: jax.Array  # float32[B, K]
    lengths: jax.Array  # int32[B, K]

    def without(self, lost: jax.Array) -> Hypotheses:
        """Those that are not `lost` bool[B, K], or [B, 1]."""
        return Hypotheses(
            jnp.where(lost[..., None], -1, self.ids),
            jnp.where(lost, -jnp.inf, self.scores),
            jnp.where(lost, 0, self.lengths),
        )


@dataclasses.dataclass(frozen=True)
class TransformersRule:
    """Beam search as transformers does it.

    Attributes:
      longest: bound unfinished beams' scores at the maximum length, not the current one.
      full: an input stops at K finished hypotheses.
    """

    longest: bool = False
    full: bool = False

    def base(self, length: jax.Array) -> jax.Array:
        """The divisor of scores, before the penalty's power."""
        return length

    def lengths(self, length: Any, longest: Any, given: Any) -> tuple[Any, Any]:
        """The lengths that score: the current and the longest, of decided ids int32[B]."""
        del given
        return length, longest if self.longest else length

    def order(self, totals: jax.Array) -> jax.Array:
        """Totals float32[B, K, V] in an order in which the first of equals is taken."""
        return totals

    def parents(self, places: jax.Array, beams: int) -> jax.Array:
        """The beams' numbers of places along the K of `order`."""
        del beams
        return places

    def finished(self, ended: jax.Array, last: jax.Array) -> jax.Array:
        """Candidates bool[B, M] that may enter the pool; those cut off at the end too."""
        return ended | last

    def entrants(self, beams: int, candidates: int) -> int:
        """How many of the best candidates may enter the pool."""
        del candidates
        return beams

    def improves(self, possible: jax.Array, worst: jax.Array) -> jax.Array:
        """Whether a score would change the pool whose worst score is `worst`."""
        return possible > worst

    def running(self, new: Any, old: Any, done: jax.Array) -> Any:
        """The running beams' ids and scores, leaves [B, …], after a step."""
        del old, done
        return new

    def results(
        self, pool: Hypotheses, running: Hypotheses, scores: jax.Array, done: jax.Array, cut: bool
    ) -> Hypotheses:
        """The hypotheses of inputs that end here.

        Args:
          pool: finished hypotheses.
          running: those that are not; their scores are sums of log-probabilities.
          scores: float32[B, K], their penalised scores.
          done: bool[B], inputs that had ended.
          cut: whether the others end before their last step. As at that step, their running
            hypotheses end where they are.
        """
        if not cut:
            return pool
        running = dataclasses.replace(running, scores=scores).without(done[:, None])
        both = jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), pool, running)
        _, best = jax.lax.top_k(both.scores, pool.scores.shape[1])
        return jax.tree.map(lambda x: take(x, best), both)


@dataclasses.dataclass(frozen=True)
class T5XRule:
    """Beam search as T5X does it.

    Every candidate that ended enters the pool, not only those among the best K. Lengths count the
    given prefix, the longest the start id as well.
    """

    full = False

    def base(self, length: jax.Array) -> jax.Array:
        """Wu et al. 2016 (arXiv:1609.08144), equation 14."""
        return (5.0 + length) / 6.0

    def lengths(self, length: Any, longest: Any, given: Any) -> tuple[Any, Any]:
        """See `TransformersRule.lengths`."""
        return length + given, longest + given + 1

    def order(self, totals: jax.Array) -> jax.Array:
        """Of equals the worst beam's first."""
        return totals[:, ::-1]

    def parents(self, places: jax.Array, beams: int) -> jax.Array:
        """See `TransformersRule.parents`."""
        return beams - 1 - places

    def finished(self, ended: jax.Array, last: jax.Array) -> jax.Array:
        """Candidates that ended by themselves."""
        del last
        return ended

    def entrants(self, beams: int, candidates: int) -> int:
        """All candidates."""
        del beams
        return candidates

    def improves(self, possible: jax.Array, worst: jax.Array) -> jax.Array:
        """An equal score counts."""
        return possible >= worst

    def running(self, new: Any, old: Any, done: jax.Array) -> Any:
        """An input that is done may still give what is running, as it was then."""

        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(jnp.expand_dims(done, tuple(range(1, new.ndim))), old, new)

        return jax.tree.map(kept, new, old)

    def results(
        self, pool: Hypotheses, running: Hypotheses, scores: jax.Array, done: jax.Array, cut: bool
    ) -> Hypotheses:
        """Where nothing has ended, what is running, with its plain scores."""
        del scores, done, cut
        some = pool.scores[:, :1] > -jnp.inf
        return Hypotheses(
            jnp.where(some[..., None], pool.ids, running.ids),
            jnp.where(some, pool.scores, running.scores),
            jnp.where(some, pool.lengths, running.lengths),
        )


@flax.struct.dataclass
class Search:
    """A beam search.

    Attributes:
      penalty: float32, of the length: transformers' exponent or T5X's brevity alpha.
      beams: running hypotheses of an input; static.
      results: hypotheses of an input that are returned, at most `beams`; static.
      rule: how to score, and when to stop; static.
      renormalize: what processors leave of the probabilities sums to 1 again; static.
      phrases: what every hypothesis is to hold; or None.
    """

    penalty: Any
    beams: int = flax.struct.field(pytree_node=False)
    results: int = flax.struct.field(pytree_node=False)
    rule: TransformersRule | T5XRule = flax.struct.field(
        pytree_node=False, default=TransformersRule()
    )
    renormalize: bool = flax.struct.field(pytree_node=False, default=False)
    phrases: PhraseAutomaton | None = None

    @classmethod
    def of(cls, options: GenerationOptions, vocab: int) -> Search | None:
        """From generation options; None where they ask for no beams."""
        if options.num_beams == 1:
            return None
        penalty, words = options.brevity_penalty, options.force_words_ids
        rule: TransformersRule | T5XRule = T5XRule()
        if penalty is None:
            penalty = options.length_penalty
            never = options.early_stopping == "never" and penalty > 0
            rule = TransformersRule(longest=never, full=options.early_stopping is True)
        return cls(
            np.float32(penalty),
            options.num_beams,
            options.num_return_sequences,
            rule,
            options.renormalize_logits,
            PhraseAutomaton.of(words, vocab) if words else None,
        )

    def score(self, log_p: jax.Array, length: jax.Array) -> jax.Array:
        """Log-probabilities [B, …] of hypotheses of int32[B] ids (or [1]), penalised."""
        base = self.rule.base(length.astype(jnp.float32))
        return log_p / jnp.expand_dims(base**self.penalty, tuple(range(1, log_p.ndim)))
