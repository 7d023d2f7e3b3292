"""Logit processors change logits before the next id is chosen.

A processor is a pytree. Its numbers are leaves, so changing them does not recompile; sizes and
functions are structure. Its memory of each row is an explicit state that `start` makes and
`advance` replaces; beam search reorders states with their beams.

Letters: R rows, B inputs (each with R / B consecutive rows: samples, beams), V vocabulary, T
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

# Log-probabilities at or below it belong to ids that a finite mask forbids; T5X's mask is -1e7.
FORBIDDEN = -1e7


@flax.struct.dataclass
class Context:
    """The position of decoding.

    Attributes:
      ids: int32[R, 1 + T], the start id, a forced prefix if any, and generated ids; -1 from
        `length` on.
      length: int32 scalar, the number of ids.
      decided: int32[R], or [1] where all rows agree, how many ids were generated, prefix excluded.
      remaining: like `decided`, how many ids may still be generated.
      live: bool[R] or [1], rows that may still give an output.
      beams: consecutive rows that are beams of one search.
    """

    ids: jax.Array
    length: jax.Array
    decided: jax.Array
    remaining: jax.Array
    live: jax.Array
    beams: int = flax.struct.field(pytree_node=False, default=1)


class Processor:
    """The base class: no state, logits unchanged.

    `forbids`: the processor only sets logits to minus infinity, independent of their values.
    """

    forbids = False

    def start(self, rows: int) -> Any:
        """The state of `rows` rows without ids; leaves [R, …]."""
        del rows
        return ()

    def advance(self, state: Any, tokens: jax.Array, decided: jax.Array) -> Any:
        """The state after one more id a row, int32[R]; `decided` bool[R] is False in a prefix."""
        del tokens, decided
        return state

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        """float32[R, V] -> float32[R, V]; log-probabilities in beam search, else logits."""
        del context, state
        return logits


def keep_below(logits: jax.Array, limit: int) -> jax.Array:
    """Forbids ids from `limit` on, such as padding rows of the embedding."""
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
    ids = jnp.where(where, ids, vocab)  # dropped: past the end
    return logits.at[jnp.arange(rows)[:, None], ids].set(-jnp.inf, mode="drop")


def penalize(logits: jax.Array, penalty: jax.Array) -> jax.Array:
    """A penalty above 1 lowers logits of either sign (arXiv:1909.05858, section 4.1)."""
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
    """Forbids EOS before `count` generated ids."""

    count: Any
    eos: tuple[int, ...] = flax.struct.field(pytree_node=False)

    forbids = True

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        return no_end_before(logits, context.decided[:, None], self.count, self.eos)


@flax.struct.dataclass
class EncoderRepetitionPenalty(Processor):
    """Makes ids of the input, `present` bool[B, V], likelier if `penalty` is above 1."""

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
    """Makes ids that occurred before, the start id included, less likely."""

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
    """Forbids ids that would complete a repeated n-gram (arXiv:1705.04304, section 2.5)."""

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
    """Forbids ids that would complete an n-gram of `inputs` int32[B, S], -1 at padding."""

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
    """Forbids the last id of a sequence after its other ids.

    `before` int32[M, L] holds M sequences without their last ids, left-padded with -1; `last`
    int32[M] their last ids, beyond the vocabulary in unused rows.
    """

    before: Any
    last: Any

    forbids = True

    @classmethod
    def of(cls, words: Sequence[Sequence[int]]) -> BadWords:
        """From sequences of ids; sizes are rounded up to avoid recompiles."""
        rows = round_up(len(words))
        before = np.full((rows, round_up(max(map(len, words))) - 1), -1, np.int32)
        last = np.full(rows, np.iinfo(np.int32).max, np.int32)
        for i, word in enumerate(words):
            before[i, before.shape[1] - len(word) + 1 :] = word[:-1]
            last[i] = word[-1]
        return cls(before, last)

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        return forbid(logits, jnp.asarray(self.last), stand_last(context, self.before))


@flax.struct.dataclass
class SequenceBias(Processor):
    """Adds `bias` float32[M] to the last id of each of M sequences after its other ids.

    Biases of the same id add up.
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
    """After `most` generated ids, adds |logit| (factor^(ids beyond) - 1) to EOS."""

    most: Any
    factor: Any
    eos: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        beyond = (context.decided - self.most)[:, None]
        # Limited, so that the softmax stays finite.
        power = jnp.minimum(jnp.power(self.factor, jnp.maximum(beyond, 0)), 1e30)
        eos = jnp.asarray(self.eos)
        old = logits[:, eos]
        # A forbidden EOS stays forbidden.
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
    """Forbids ids, `mask` bool[V], at the first position that is not `forced`."""

    mask: Any
    forced: bool = flax.struct.field(pytree_node=False)

    forbids = True

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        given = context.length - 1 - context.decided
        # forced_bos_token_id has no effect after a prefix.
        first = context.decided == jnp.where(given == 0, int(self.forced), 0)
        return jnp.where(first[:, None] & self.mask, -jnp.inf, logits)


@flax.struct.dataclass
class ForcedFirst(Processor):
    """Forces the id after the start id, unless there is a prefix."""

    id: Any

    def __call__(self, logits: jax.Array, context: Context, state: Any) -> jax.Array:
        first = context.length == 1
        return jnp.where(first, only(logits, jnp.asarray(self.id)[None]), logits)


@flax.struct.dataclass
class ForcedLast(Processor):
    """Forces the last position to be one of the ids int32[M]."""

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
    """int32[R, count]: the last ids, left-padded with -2."""
    padded = jnp.pad(context.ids, ((0, 0), (count, 0)), constant_values=-2)
    return jax.lax.dynamic_slice_in_dim(padded, context.length, count, axis=1)


def stand_last(context: Context, before: Any) -> jax.Array:
    """bool[R, M]: which of M sequences int32[M, L], left-padded with -1, the ids end with.

    The start id counts, as in transformers 5; in 4 it does not.
    """
    before = jnp.asarray(before)
    tail = last_ids(context, before.shape[1])
    there = jnp.ones((len(tail), len(before)), bool)
    for i in range(before.shape[1]):
        there &= (tail[:, i : i + 1] == before[:, i]) | (before[:, i] < 0)
    return there


def round_up(n: int) -> int:
    """The next power of two: a size that few programs share."""
    return 1 << max(n - 1, 0).bit_length()
