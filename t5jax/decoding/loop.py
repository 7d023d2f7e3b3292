"""The decoding loop, from the first token to the last.

`begin` makes a state with room for some tokens and `decode` goes on until all rows have ended or
the room is used up; a state can be given more room. So a step reads a cache that is at most twice
as long as what has been decoded, and not one for the longest output that there could be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.decoding.controls import Controls, Prefix
from t5jax.decoding.processors import Context, Processor


class BoundNetwork(NamedTuple):
    """A network with its parameters and its inputs.

    `step`: `hidden, cache = step(tokens int32[R], cache, index)`, one more token a row -> the
    normed output [R, D]; of beams `step(tokens, cache, index, ancestry int32[B, K, T])`. `logits`:
    [R, D] -> float32[R, V].
    """

    step: Callable[..., tuple[jax.Array, Any]]
    logits: Callable[[jax.Array], jax.Array]


@flax.struct.dataclass
class Decoded:
    """R sequences, or B x n of a beam search.

    `ids` int32[R, T]: without the start id, with what was given, ending in EOS where one came, then
    padding. `scores` float32[R]: the sum of the model's log-probabilities of the ids that were
    decided (nats), before any temperature or restriction; in beam search the hypothesis' score;
    None with a shortlist. `lengths` int32[R]: ids that are no padding.
    """

    ids: jax.Array
    scores: jax.Array | None
    lengths: jax.Array


@flax.struct.dataclass
class LoopState:
    """The state of R rows between two steps.

    `ids` int32[R, 1 + T] begins with the start id; -1 where nothing is yet. `done` bool[R].
    `scores` float32[R]; None with a shortlist. `processors`: the state of each. `stop`: that of the
    stop strings; None without.
    """

    index: jax.Array
    ids: jax.Array
    done: jax.Array
    scores: jax.Array | None
    lengths: jax.Array
    processors: tuple[Any, ...]
    stop: Any
    cache: Any

    def extend(self, length: int) -> LoopState:
        """With room for `length` ids."""
        more = 1 + length - self.ids.shape[1]
        ids = jnp.pad(self.ids, ((0, 0), (0, more)), constant_values=-1)
        return dataclasses.replace(self, ids=ids, cache=self.cache.extend(length))


def begin(cache: Any, done: jax.Array, controls: Controls, length: int) -> LoopState:
    """The state before the first step.

    Args:
      cache: as it is then, with room for `length` steps.
      done: bool[R], rows that only fill the batch up and stay empty.
      controls: how to choose ids, and what is given.
      length: static, how many ids there is room for.
    """
    rows, start = len(done), controls.ids.start
    tokens = jnp.full(rows, start, jnp.int32)
    return LoopState(
        index=jnp.int32(0),
        ids=jnp.full((rows, 1 + length), -1, jnp.int32).at[:, 0].set(start),
        done=done,
        scores=jnp.zeros(rows, jnp.float32) if controls.shortlist is None else None,
        lengths=jnp.zeros(rows, jnp.int32),
        processors=start_processors(controls.processors, tokens),
        stop=None if controls.stop is None else controls.stop.start(rows),
        cache=cache,
    )


def advance(state: LoopState, network: BoundNetwork, controls: Controls) -> LoopState:
    """One more id a row; rows that are done get padding."""
    ids, index = controls.ids, state.index
    scores: Any = state.scores
    tokens = jax.lax.dynamic_index_in_dim(state.ids, index, axis=1, keepdims=False)
    hidden, cache = network.step(tokens, state.cache, index)
    context = make_context(state.ids, index, controls.max_new_tokens, controls.prefix)

    def restrict(logits: jax.Array) -> jax.Array:
        return apply_processors(controls.processors, logits, context, state.processors)

    decided, given = given_ids(controls, index)
    live = ~state.done
    if controls.shortlist is not None:
        chosen = controls.shortlist.best(hidden, restrict)
    else:
        raw = network.logits(hidden)
        chosen = controls.sampler(restrict(raw), step_keys(controls.keys, index))
        log_p = jnp.take_along_axis(raw, chosen[:, None], axis=-1)[:, 0]
        log_p = log_p - jax.nn.logsumexp(raw, axis=-1)
        scores = scores + jnp.where(live & decided, log_p, 0.0)
    chosen = jnp.where(decided, chosen, given)
    tokens = jnp.where(live, chosen, ids.pad)
    stop, stopped = advance_stop(controls, state.stop, tokens)
    ended = jnp.isin(chosen, jnp.asarray(ids.eos)) | stopped
    # Both have one entry where no row has a prefix.
    last = context.remaining <= 1
    return LoopState(
        index=index + 1,
        ids=jax.lax.dynamic_update_slice(state.ids, tokens[:, None], (0, index + 1)),
        done=state.done | (decided & (ended | last)),
        scores=scores,
        lengths=state.lengths + live,
        processors=advance_processors(controls.processors, state.processors, tokens, decided),
        stop=stop,
        cache=cache,
    )


def decode(
    state: LoopState,
    network: BoundNetwork,
    controls: Controls,
    block: int,
    until: jax.Array | None = None,
) -> LoopState:
    """Decodes until all rows have ended, with `max_new_tokens` at the latest, or room is used up.

    Args:
      state: with room for a multiple of `block` ids.
      network: makes the steps.
      controls: how to choose ids, and what is given.
      block: steps between two looks at whether all have ended. On an accelerator each look
        waits for the device, so several steps go together.
      until: int32, a multiple of `block`: the number of ids at which to stop before room is.
    """
    room = state.ids.shape[1] - 1 if until is None else until
    return run(state, lambda s: advance(s, network, controls), room, block)


def finish(state: LoopState, controls: Controls) -> Decoded:
    """The sequences decoded so far."""
    return Decoded(finish_ids(state.ids, controls.ids.pad), state.scores, state.lengths)


def run(state: Any, one: Callable[[Any], Any], room: int | jax.Array, block: int) -> Any:
    """Steps in blocks until every row of `state.done` has ended, or `state.index` is `room`."""

    def several(state: Any) -> Any:
        if block == 1:
            return one(state)
        return jax.lax.scan(lambda s, _: (one(s), None), state, length=block)[0]

    def go_on(state: Any) -> jax.Array:
        return (state.index < room) & ~jnp.all(state.done)

    return jax.lax.while_loop(go_on, several, state)


def finish_ids(ids: jax.Array, pad: int) -> jax.Array:
    """int32[…, 1 + T] of a state -> int32[…, T]: without the start id, with padding."""
    ids = ids[..., 1:]
    return jnp.where(ids < 0, pad, ids)


# What greedy decoding, sampling and beam search have in common.


def step_keys(row_keys: jax.Array, index: jax.Array) -> jax.Array:
    """Threefry key data uint32[R, 2] -> the keys [R] of the step at position `index`."""
    keys = jax.random.wrap_key_data(row_keys, impl="threefry2x32")
    return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)


def make_context(
    ids: jax.Array,
    index: jax.Array,
    max_new_tokens: jax.Array,
    prefix: Prefix | None,
    live: jax.Array | None = None,
    beams: int = 1,
) -> Context:
    """The context of the step that decides the id after position `index`; ids int32[R, 1 + T]."""
    decided = index[None] if prefix is None else jnp.maximum(index - prefix.lengths, 0)
    live = jnp.ones(1, bool) if live is None else live
    return Context(ids, index + 1, decided, max_new_tokens - decided, live, beams)


def given_ids(controls: Controls, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the id after position `index` is decided, bool[R] or [1], and if not, which it is."""
    prefix = controls.prefix
    if prefix is None:
        return jnp.ones(1, bool), jnp.zeros(1, jnp.int32)
    column = jnp.minimum(index, prefix.ids.shape[1] - 1)
    given = jax.lax.dynamic_index_in_dim(jnp.asarray(prefix.ids), column, axis=1, keepdims=False)
    return index >= prefix.lengths, given


def start_processors(processors: tuple[Processor, ...], tokens: jax.Array) -> tuple[Any, ...]:
    """Their states after the start id of each row, `tokens` int32[R]."""
    states = tuple(processor.start(len(tokens)) for processor in processors)
    return advance_processors(processors, states, tokens, jnp.zeros(1, bool))


def advance_processors(
    processors: tuple[Processor, ...],
    states: tuple[Any, ...],
    tokens: jax.Array,
    decided: jax.Array,
) -> tuple[Any, ...]:
    """Their states after one more id a row."""
    return tuple(
        processor.advance(state, tokens, decided)
        for processor, state in zip(processors, states, strict=True)
    )


def apply_processors(
    processors: tuple[Processor, ...],
    logits: jax.Array,
    context: Context,
    states: tuple[Any, ...],
) -> jax.Array:
    """The logits after each of them in turn."""
    for processor, state in zip(processors, states, strict=True):
        logits = processor(logits, context, state)
    return logits


def advance_stop(controls: Controls, state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
    """The stop strings' state after one more id a row, and whether it completed one, bool[R]."""
    if controls.stop is None:
        return state, jnp.zeros(len(tokens), bool)
    return controls.stop.advance(state, tokens)
