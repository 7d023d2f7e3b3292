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
from t5jax.decoding.controls import Controls, Ids

# `logits float32[R, K, V], cache = verify(ids int32[R, K], cache, index)` after each of K ids.
Verify = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


@flax.struct.dataclass
class Guessing:
    """What one round hands to the next.

    `state`: the model's. `cache`: the assistant's. `rounds`, `right`: int32, rounds so far, and
    guesses in them that were what the model chose.
    """

    state: loop.State
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
    guess: loop.Step,
    guess_cache: Any,
    row_keys: jax.Array,
    done: jax.Array,
    *,
    controls: Controls,
    ids: Ids,
    length: int,
    guesses: int,
) -> tuple[loop.Decoded, jax.Array, jax.Array]:
    """What `loop.decode` comes to, in fewer passes of the model.

    Rows go on together, as far as the guesses of all of them are right.

    Args:
      verify: a pass of the model.
      cache: the model's, with room for `length + guesses` positions.
      guess: a step of the assistant.
      guess_cache: the assistant's cache, with as much room.
      row_keys, done, controls, ids: as in `loop.begin` and `loop.decode`.
      length: static, columns of the result.
      guesses: static, ids that are guessed in a round.

    Returns:
      The sequences, the rounds that it took, and how many guesses were right, int32.
    """
    keys = jax.random.wrap_key_data(row_keys, impl="threefry2x32")

    def choose_guess(carry: Any, i: jax.Array) -> Any:
        tokens, cache, index = carry
        logits, cache = guess(tokens, cache, index + i)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, index + i))(keys)
        decided, given = loop.given_ids(controls, index + i)
        tokens = jnp.where(decided, controls.sampler(logits, step_keys), given)
        return (tokens, cache, index), tokens

    def one_round(carry: Guessing) -> Guessing:
        state, index = carry.state, carry.state.index
        last = jax.lax.dynamic_index_in_dim(state.ids, index, axis=1, keepdims=False)
        # One step more than there are guesses: the last guess has to be in the cache as well.
        steps = jnp.arange(guesses + 1)
        (_, guess_cache, _), guessed = jax.lax.scan(choose_guess, (last, carry.cache, index), steps)
        tokens = jnp.concatenate([last[None], guessed[:-1]]).T
        logits, cache = verify(tokens, state.cache, index)

        def follow(carry: Any) -> Any:
            i, state, _ = carry
            row = jax.lax.dynamic_index_in_dim(logits, i, axis=1, keepdims=False)
            before = state.done
            state = loop.advance(state, lambda *_: (row, ()), row_keys, controls, ids)
            chosen = jax.lax.dynamic_index_in_dim(state.ids, index + 1 + i, 1, keepdims=False)
            return i + 1, state, jnp.all(before | (chosen == guessed[i]))

        def go_on(carry: Any) -> jax.Array:
            i, state, right = carry
            return right & (i <= guesses) & ~jnp.all(state.done)

        # The cache is no part of the inner loop, which would hand it round.
        start = (jnp.int32(0), dataclasses.replace(state, cache=()), jnp.bool_(True))
        taken, state, right = jax.lax.while_loop(go_on, follow, start)
        # The last id that was taken may be no guess, or a wrong one.
        correct = taken - jnp.where(right & (taken <= guesses), 0, 1)
        state = dataclasses.replace(state, cache=cache)
        return Guessing(state, guess_cache, carry.rounds + 1, carry.right + correct)

    start = loop.begin(cache, done, controls, ids, length)
    zero = jnp.int32(0)
    end = loop.run(Guessing(start, guess_cache, zero, zero), one_round, length, block=1)
    return loop.finish(end.state, ids), end.rounds, end.right
