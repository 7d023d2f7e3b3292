"""Logit processors: what makes ids less likely, or forbids them, before one is picked.

A processor is a pytree. Its numbers are leaves, so that other values compile nothing anew; sizes
and functions are structure. What it has to remember of each row is an explicit state that `start`
makes and `advance` replaces; beam search lets a row go on from another row's state.

Letters: R rows, B inputs (each with R / B rows in a run: samples, beams), V vocabulary, T
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5jax import user_code

# Log-probabilities from here down are those of ids that a finite mask forbids; T5X's own is this.
FORBIDDEN = -1e7


@flax.struct.dataclass
class Context:
    """Where decoding stands.

    `ids` int32[R, 1 + T]: the start id, a forced prefix if any, what was decided; -1 from `length`
    on. `length` int32 scalar: ids there are. `decided` int32[R], or [1] where all rows are alike:
    how many of them were decided, not given. `remaining`, of the same shape: how many may still
    be. `live` bool[R] or [1]: rows of which something may come. `beams`: rows in a run that are one
    search.
    """

    ids: jax.Array
    length: jax.Array
    decided: jax.Array
    remaining: jax.Array
    live: jax.Array
    beams: int = flax.struct.field(pytree_node=False, default=1)


class Processor:
    """What a processor offers; by default it remembers nothing and changes nothing.

    `forbids`: it puts minus infinity somewhere, whatever the logits are, and does nothing else.
    """

    forbids = False

    def start(self, rows: int) -> Any:
        """The state of `rows` rows in which there is no id yet; leaves [R, …]."""
        del rows
        return ()

    def advance(self, state: Any, tokens: jax.Array, decided: jax.Array) -> Any:
        """The state after one more id a row, int32[R]; `decided` bool[R]: it was not given."""
        del tokens, decided
        return state

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        """float32[R, V] -> float32[R, V]; log-probabilities in beam search, else logits."""
        del context, state
        return logits


def keep_below(logits: jax.Array, limit: int) -> jax.Array:
    """Forbids ids from `limit` on: rows that pad the embedding belong to no token."""
    if limit >= logits.shape[-1]:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < limit, logits, -jnp.inf)


def no_end_before(
    logits: jax.Array, index: jax.Array, min_new_tokens: jax.Array, eos_ids: Sequence[int]
) -> jax.Array:
    """Forbids EOS at positions (from 0; int32[] or [R, 1]) before `min_new_tokens`."""
    ends = jnp.isin(jnp.arange(logits.shape[-1]), jnp.asarray(eos_ids))
    return jnp.where(ends & (index < min_new_tokens), -jnp.inf, logits)


def forbid(logits: jax.Array, ids: jax.Array, where: jax.Array) -> jax.Array:
    """Minus infinity at ids int32[R, M] or [M] where bool[R, M] is true."""
    rows, vocab = logits.shape
    ids = jnp.where(where, ids, vocab)  # past the end, where nothing is written
    return logits.at[jnp.arange(rows)[:, None], ids].set(-jnp.inf, mode="drop")


def penalize(logits: jax.Array, penalty: jax.Array) -> jax.Array:
    """Less likely where more than 1, whatever the logit's sign (arXiv:1909.05858, section 4.1)."""
    return jnp.where(logits < 0, logits * penalty, logits / penalty)


def only(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """0 at ids int32[M], minus infinity elsewhere."""
    return jnp.full_like(logits, -jnp.inf).at[:, ids].set(0.0)


@flax.struct.dataclass
class KeepBelow(Processor):
    """Forbids ids from `limit` on."""

    limit: int = flax.struct.field(pytree_node=False)

    forbids = True

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        return keep_below(logits, self.limit)


@flax.struct.dataclass
class MinNewTokens(Processor):
    """Forbids EOS before `count` ids were decided."""

    count: Any
    eos: tuple[int, ...] = flax.struct.field(pytree_node=False)

    forbids = True

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        return no_end_before(logits, context.decided[:, None], self.count, self.eos)


@flax.struct.dataclass
class EncoderRepetitionPenalty(Processor):
    """Makes ids of the input likelier where `penalty` is more than 1.

    `present` bool[B, V]: the ids of each input.
    """

    penalty: Any
    present: Any

    @classmethod
    def of(
        cls, penalty: Any, inputs: np.ndarray, mask: np.ndarray, vocab: int
    ) -> EncoderRepetitionPenalty:
        """From inputs int32[B, S] and their mask bool[B, S], False at padding."""
        present = np.zeros((len(inputs), vocab), bool)
        present[np.nonzero(mask)[0], inputs[mask]] = True
        return cls(penalty, present)

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        present = jnp.repeat(self.present, len(logits) // len(self.present), axis=0)
        return jnp.where(present, penalize(logits, 1.0 / self.penalty), logits)


@flax.struct.dataclass
class RepetitionPenalty(Processor):
    """Makes ids that were there already, the start id among them, less likely."""

    penalty: Any
    vocab: int = flax.struct.field(pytree_node=False)

    def start(self, rows: int) -> jax.Array:
        return jnp.zeros((rows, self.vocab), bool)

    def advance(self, state: jax.Array, tokens: jax.Array, decided: jax.Array) -> jax.Array:
        return state.at[jnp.arange(len(tokens)), tokens].set(True)

    def __call__(self, logits: jax.Array, context: Context, state: jax.Array) -> jax.Array:
        return jnp.where(state, penalize(logits, self.penalty), logits)


@flax.struct.dataclass
class NoRepeatNGram(Processor):
    """Forbids what would complete an n-gram that was there already (arXiv:1705.04304, 2.5)."""

    size: int = flax.struct.field(pytree_node=False)

    forbids = True

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        ids, n = context.ids, self.size
        starts = ids.shape[1] - n + 1
        if starts < 1:
            return logits
        last = last_ids(context, n - 1)
        same = jnp.arange(starts) + n <= context.length
        same = jnp.broadcast_to(same, (len(ids), starts))
        for i in range(n - 1):
            same &= ids[:, i : i + starts] == last[:, i : i + 1]
        return forbid(logits, ids[:, n - 1 :], same)


@flax.struct.dataclass
class EncoderNoRepeatNGram(Processor):
    """Forbids what would complete an n-gram of the input; `inputs` int32[B, S], -1 at padding."""

    inputs: Any
    size: int = flax.struct.field(pytree_node=False)

    forbids = True

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        n = self.size
        starts = self.inputs.shape[1] - n + 1
        if starts < 1:
            return logits
        inputs = jnp.repeat(jnp.asarray(self.inputs), len(logits) // len(self.inputs), axis=0)
        last = last_ids(context, n - 1)
        same = inputs[:, n - 1 :] >= 0
        for i in range(n - 1):
            same &= inputs[:, i : i + starts] == last[:, i : i + 1]
        return forbid(logits, inputs[:, n - 1 :], same)


@flax.struct.dataclass
class BadWords(Processor):
    """Forbids the last id of a sequence where the others stand before it.

    `before` int32[M, L], M sequences without their last ids, with -1 in front of shorter ones;
    `last` int32[M], beyond the vocabulary in rows that are none.
    """

    before: Any
    last: Any

    forbids = True

    @classmethod
    def of(cls, words: Sequence[Sequence[int]]) -> BadWords:
        """From sequences of ids; sizes are rounded up, so that few programs serve all."""
        rows = _power_of_two(len(words))
        before = np.full((rows, _power_of_two(max(map(len, words))) - 1), -1, np.int32)
        last = np.full(rows, np.iinfo(np.int32).max, np.int32)
        for i, word in enumerate(words):
            before[i, before.shape[1] - len(word) + 1 :] = word[:-1]
            last[i] = word[-1]
        return cls(before, last)

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        return forbid(logits, jnp.asarray(self.last), stand_last(context, self.before))


@flax.struct.dataclass
class SequenceBias(Processor):
    """Adds `bias` float32[M] to the last id of a sequence where the others stand before it.

    `words`: the M sequences; those of one last id add up.
    """

    words: BadWords
    bias: Any

    @classmethod
    def of(cls, biases: Sequence[tuple[Sequence[int], float]]) -> SequenceBias:
        """From sequences of ids and their biases."""
        words = BadWords.of([sequence for sequence, _ in biases])
        bias = np.zeros(len(words.last), np.float32)
        bias[: len(biases)] = [value for _, value in biases]
        return cls(words, bias)

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        there = stand_last(context, self.words.before)
        rows = jnp.arange(len(logits))[:, None]
        bias = jnp.where(there, self.bias, 0.0)
        return logits.at[rows, jnp.asarray(self.words.last)].add(bias, mode="drop")


@flax.struct.dataclass
class ExponentialDecay(Processor):
    """Beyond `most` decided ids EOS gains |logit| (factor^(ids beyond) - 1)."""

    most: Any
    factor: Any
    eos: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        beyond = (context.decided - self.most)[:, None]
        # Cut where a softmax of what comes out would be no number.
        power = jnp.minimum(jnp.power(self.factor, jnp.maximum(beyond, 0)), 1e30)
        eos = jnp.asarray(self.eos)
        old = logits[:, eos]
        # An EOS that is forbidden stays so.
        new = jnp.where(old > -jnp.inf, old + jnp.abs(old) * (power - 1.0), old)
        return logits.at[:, eos].set(new)


@flax.struct.dataclass
class Suppress(Processor):
    """Forbids ids everywhere; `mask` bool[V]."""

    mask: Any

    forbids = True

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        return jnp.where(self.mask, -jnp.inf, logits)


@flax.struct.dataclass
class BeginSuppress(Processor):
    """Forbids ids, `mask` bool[V], where the first is chosen; `forced`: the one before is not."""

    mask: Any
    forced: bool = flax.struct.field(pytree_node=False)

    forbids = True

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        given = context.length - 1 - context.decided
        # After a prefix nothing is forced.
        first = context.decided == jnp.where(given == 0, int(self.forced), 0)
        return jnp.where(first[:, None] & self.mask, -jnp.inf, logits)


@flax.struct.dataclass
class ForcedFirst(Processor):
    """The id after the start id; with a forced prefix there is none to decide."""

    id: Any

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        first = context.length == 1
        return jnp.where(first, only(logits, jnp.asarray(self.id)[None]), logits)


@flax.struct.dataclass
class ForcedLast(Processor):
    """The id, or one of the ids int32[M], that the last position has."""

    ids: Any

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        last = context.remaining == 1
        return jnp.where(last[:, None], only(logits, jnp.asarray(self.ids)), logits)


@flax.struct.dataclass
class UserFunction(Processor):
    """A user's `(ids, logits) -> logits`; the same function object compiles once."""

    function: Callable[[jax.Array, jax.Array], jax.Array] = flax.struct.field(pytree_node=False)

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        with user_code.running("logits_processor"):
            out = jnp.asarray(self.function(context.ids, logits))
        if out.shape != logits.shape:
            raise ValueError(
                f"logits_processor gives {out.dtype}{list(out.shape)} for logits of "
                f"{logits.dtype}{list(logits.shape)}; it must give the same shape"
            )
        return out.astype(logits.dtype)


def last_ids(context: Context, count: int) -> jax.Array:
    """int32[R, count]: the last ids; -2, which is no id, where there are not as many."""
    padded = jnp.pad(context.ids, ((0, 0), (count, 0)), constant_values=-2)
    return jax.lax.dynamic_slice_in_dim(padded, context.length, count, axis=1)


def stand_last(context: Context, before: Any) -> jax.Array:
    """bool[R, M]: which of M sequences int32[M, L], -1 in front of shorter ones, ids end with.

    The start id counts as the others do, as in transformers 5; in 4 it does not.
    """
    before = jnp.asarray(before)
    tail = last_ids(context, before.shape[1])
    there = jnp.ones((len(tail), len(before)), bool)
    for i in range(before.shape[1]):
        there &= (tail[:, i : i + 1] == before[:, i]) | (before[:, i] < 0)
    return there


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
