"""Decoding with an assistant: a small model guesses ahead, the model itself says what is right.

Leviathan et al. 2023 (arXiv:2211.17192), with one difference: nothing is rejected at random. The
model chooses each id as it would alone, from the same restrictions and the same random numbers;
guesses only let it do so for several positions in one pass. So the output is the model's own
whatever the assistant says, in sampling too, where both draw with one key for each position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.decoding import loop
from t5jax.decoding.controls import Controls

# `logits float32[R, K, V], cache = verify(ids int32[R, K], cache, index)` after each of K ids.
Verify = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


@flax.struct.dataclass
class Guessing:
    """The state between two rounds.

    `state`: the model's. `cache`: the assistant's. `rounds`, `right`: int32, rounds so far, and
    guesses in them that were what the model chose.
    """

    state: loop.LoopState
    cache: Any
    rounds: jax.Array
    right: jax.Array

    @property
    def index(self) -> jax.Array:
        """int32 scalar."""
        return self.state.index

    @property
    def done(self) -> jax.Array:
        """bool[R]."""
        return self.state.done


def decode(
    verify: Verify,
    cache: Any,
    guesser: loop.BoundNetwork,
    guess_cache: Any,
    done: jax.Array,
    controls: Controls,
    *,
    length: int,
    guesses: int,
) -> tuple[loop.Decoded, jax.Array, jax.Array]:
    """The result of `loop.decode`, in fewer passes of the model.

    Rows go on together, as far as the guesses of all of them are right.

    Args:
      verify: a pass of the model.
      cache: the model's, with room for `length + guesses` positions.
      guesser: the assistant.
      guess_cache: the assistant's cache, with as much room.
      done, controls: as in `loop.begin`.
      length: static, columns of the result.
      guesses: static, ids that are guessed in a round.

    Returns:
      The sequences, the rounds that it took, and how many guesses were right, int32.
    """

    def one_round(carry: Guessing) -> Guessing:
        index = carry.index
        last = jax.lax.dynamic_index_in_dim(carry.state.ids, index, axis=1, keepdims=False)
        guessed, guess_cache = _guess(guesser, carry.cache, last, index, controls, guesses)
        tokens = jnp.concatenate([last[None], guessed[:-1]]).T
        logits, cache = verify(tokens, carry.state.cache, index)
        # The cache is no part of the inner loop, which would hand it round.
        start = dataclasses.replace(carry.state, cache=())
        state, right = _follow(start, logits, guessed, controls)
        state = dataclasses.replace(state, cache=cache)
        return Guessing(state, guess_cache, carry.rounds + 1, carry.right + right)

    start = loop.begin(cache, done, controls, length)
    zero = jnp.int32(0)
    end = loop.run(Guessing(start, guess_cache, zero, zero), one_round, length, block=1)
    return loop.finish(end.state, controls), end.rounds, end.right


def _guess(
    guesser: loop.BoundNetwork,
    cache: Any,
    last: jax.Array,
    index: jax.Array,
    controls: Controls,
    guesses: int,
) -> tuple[jax.Array, Any]:
    """Ids int32[guesses + 1, R] that the assistant puts behind `last` int32[R], and its cache."""

    def choose(carry: Any, i: jax.Array) -> Any:
        tokens, cache = carry
        hidden, cache = guesser.step(tokens, cache, index + i)
        decided, given = loop.given_ids(controls, index + i)
        keys = loop.step_keys(controls.keys, index + i)
        tokens = jnp.where(decided, controls.sampler(guesser.logits(hidden), keys), given)
        return (tokens, cache), tokens

    # One step more than there are guesses: the last guess has to be in the cache as well.
    (_, cache), guessed = jax.lax.scan(choose, (last, cache), jnp.arange(guesses + 1))
    return guessed, cache


def _follow(
    state: loop.LoopState, logits: jax.Array, guessed: jax.Array, controls: Controls
) -> tuple[loop.LoopState, jax.Array]:
    """The state after the model's ids as far as they are the guesses, and one id more.

    Args:
      state: before the round, without a cache.
      logits: float32[R, guesses + 1, V], the model's, the last behind all guesses.
      guessed: int32[guesses + 1, R]; the last is only there to be in the assistant's cache.
      controls: as in `decode`.

    Returns:
      The state, and how many guesses were right.
    """
    index, guesses = state.index, len(guessed) - 1

    def follow(carry: Any) -> Any:
        i, state, _ = carry
        row = jax.lax.dynamic_index_in_dim(logits, i, axis=1, keepdims=False)
        before = state.done
        state = loop.advance(state, loop.BoundNetwork(lambda *_: (row, ()), lambda x: x), controls)
        chosen = jax.lax.dynamic_index_in_dim(state.ids, index + 1 + i, 1, keepdims=False)
        return i + 1, state, jnp.all(before | (chosen == guessed[i]))

    def go_on(carry: Any) -> jax.Array:
        i, state, right = carry
        return right & (i <= guesses) & ~jnp.all(state.done)

    taken, state, right = jax.lax.while_loop(go_on, follow, (jnp.int32(0), state, jnp.bool_(True)))
    # The last id that was taken may be no guess, or a wrong one.
    return state, taken - jnp.where(right & (taken <= guesses), 0, 1)
