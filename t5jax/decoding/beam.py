"""Beam search with transformers' meaning or T5X's.

An input's K running hypotheses ("beams") each go on with their likeliest ids; the best K of those
that have not ended run on, those that ended enter a pool of the K best. Letters: B inputs, K beams,
M candidates of a step, V vocabulary, T positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from t5jax.decoding.controls import Controls, Ids
from t5jax.decoding.loop import (
    Decoded,
    advance_processors,
    advance_stop,
    apply_processors,
    finish_ids,
    given_ids,
    make_context,
    run,
    start_processors,
)
from t5jax.decoding.options import GenerationOptions
from t5jax.decoding.phrases import Phrases, places, share_out
from t5jax.decoding.processors import FORBIDDEN
from t5jax.decoding.samplers import Sample
from t5jax.ops.selection import largest, take

BeamStep = Callable[[jax.Array, Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


@flax.struct.dataclass
class Search:
    """How a beam search scores and when it stops.

    `penalty` float32: of the length, transformers' exponent or T5X's brevity alpha. `longest`: the
    length that the best hypothetical hypothesis is given is the longest, not the present one.
    `full` stops an input at K finished hypotheses. `t5x`: its scores, of lengths that count what
    was given, and its pool, which takes every candidate that ended and not only those among the
    best K. `renormalize`: what processors leave of the probabilities sums to 1 again.
    `phrases`: what every hypothesis is to hold.
    """

    penalty: Any
    beams: int = flax.struct.field(pytree_node=False)
    longest: bool = flax.struct.field(pytree_node=False, default=False)
    full: bool = flax.struct.field(pytree_node=False, default=False)
    t5x: bool = flax.struct.field(pytree_node=False, default=False)
    renormalize: bool = flax.struct.field(pytree_node=False, default=False)
    phrases: Phrases | None = None

    @classmethod
    def of(cls, options: GenerationOptions, ids: Ids) -> Search:
        """From generation options."""
        words = options.force_words_ids
        t5x = options.brevity_penalty is not None
        penalty = options.brevity_penalty if t5x else options.length_penalty
        return cls(
            np.float32(penalty),
            options.num_beams,
            longest=t5x or (options.early_stopping == "never" and options.length_penalty > 0),
            full=options.early_stopping is True,
            t5x=t5x,
            renormalize=options.renormalize_logits,
            phrases=Phrases.of(words, ids.vocab) if words else None,
        )

    def score(self, log_p: jax.Array, length: jax.Array) -> jax.Array:
        """Log-probabilities [B, …] of hypotheses of int32[B] ids (or [1]), penalised."""
        length = length.astype(jnp.float32)
        # T5X: Wu et al. 2016 (arXiv:1609.08144), equation 14.
        base = (5.0 + length) / 6.0 if self.t5x else length
        return log_p / jnp.expand_dims(base**self.penalty, tuple(range(1, log_p.ndim)))


@flax.struct.dataclass
class Pool:
    """An input's finished hypotheses, best first: scores minus infinity where there is none."""

    ids: jax.Array  # int32[B, K, 1 + T]
    scores: jax.Array  # float32[B, K]
    lengths: jax.Array  # int32[B, K]


@flax.struct.dataclass
class BeamState:
    """What one step hands to the next.

    `ids` int32[B, K, 1 + T] and `scores` float32[B, K], the sums of log-probabilities, are of the
    running beams, best first; minus infinity: no beam. `ancestry` int32[B, K, T]: whose slot of the
    cache holds a beam's past. `processors`, `stop`, `progress` of the phrases: leaves [B * K, …].
    """

    index: jax.Array
    ids: jax.Array
    scores: jax.Array
    done: jax.Array
    pool: Pool
    ancestry: jax.Array
    processors: tuple[Any, ...]
    stop: Any
    progress: Any
    cache: Any

    def extend(self, length: int) -> BeamState:
        """With room for `length` ids."""

        def pad(x: jax.Array, size: int) -> jax.Array:
            return jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2])), constant_values=-1)

        return dataclasses.replace(
            self,
            ids=pad(self.ids, 1 + length),
            pool=dataclasses.replace(self.pool, ids=pad(self.pool.ids, 1 + length)),
            ancestry=pad(self.ancestry, length),
            cache=self.cache.extend(length),
        )


def begin(
    cache: Any, done: jax.Array, controls: Controls, search: Search, ids: Ids, length: int
) -> BeamState:
    """The state before the first step.

    Args:
      cache: as it is then, with room for `length` steps.
      done: bool[B], inputs that only fill the batch up and stay empty.
      controls, ids, length: as in `loop.begin`. A sampler that draws makes the candidates draws
        without replacement.
      search: scores, and when to stop.
    """
    batch, beams = len(done), search.beams
    tokens = jnp.full(batch * beams, ids.start, jnp.int32)
    empty = jnp.full((batch, beams, 1 + length), -1, jnp.int32).at[:, :, 0].set(ids.start)
    nothing = jnp.full((batch, beams), -jnp.inf)
    return BeamState(
        index=jnp.int32(0),
        ids=empty,
        # One beam: its equals would give every candidate K times.
        scores=nothing.at[:, 0].set(0.0),
        done=done,
        pool=Pool(empty, nothing, jnp.zeros((batch, beams), jnp.int32)),
        ancestry=jnp.full((batch, beams, length), -1, jnp.int32),
        processors=start_processors(controls.processors, tokens),
        stop=() if controls.stop is None else controls.stop.start(batch * beams),
        progress=() if search.phrases is None else search.phrases.start(batch * beams),
        cache=cache,
    )


def beam_search(
    state: BeamState,
    step: BeamStep,
    row_keys: jax.Array,
    controls: Controls,
    search: Search,
    ids: Ids,
    block: int,
    until: jax.Array | None = None,
) -> BeamState:
    """Searches until all inputs have ended, or room is used up.

    Args:
      state: with room for a multiple of `block` ids.
      step: `logits, cache = step(tokens int32[B*K], cache, index, ancestry int32[B, K, T])`.
      row_keys: uint32[B, 2], threefry key data, one an input.
      controls, search, ids: as in `begin`.
      block, until: as in `loop.decode`.
    """
    room = state.ancestry.shape[2] if until is None else until
    return run(state, lambda s: advance(s, step, row_keys, controls, search, ids), room, block)


def finish(
    state: BeamState,
    done: jax.Array,
    controls: Controls,
    search: Search,
    ids: Ids,
    results: int,
    *,
    cut: bool = False,
) -> Decoded:
    """The best `results` hypotheses of each input, best first; fewer have scores of -inf.

    Fewer there are only where constraints leave no more.

    Args:
      state: after the last step.
      done, controls, search, ids: as in `begin`.
      results: static, at most `search.beams`.
      cut: static, whether inputs that have not ended end here.
    """
    batch, pool = len(done), state.pool
    lost = done[:, None] | (state.scores == -jnp.inf)
    if search.phrases is not None:
        lost |= ~search.phrases.holds(state.progress).reshape(lost.shape)
    lengths = jnp.where(lost, 0, jnp.sum(state.ids >= 0, axis=-1) - 1)
    if search.t5x:
        # T5X: where nothing has ended, what is running, with its plain scores.
        some = pool.scores[:, :1] > -jnp.inf
        pool = Pool(
            jnp.where(some[..., None], pool.ids, jnp.where(lost[..., None], -1, state.ids)),
            jnp.where(some, pool.scores, jnp.where(lost, -jnp.inf, state.scores)),
            jnp.where(some, pool.lengths, lengths),
        )
    elif cut:
        # As at the last step, what is running ends where it is.
        length = (
            make_context(
                state.ids[:, 0], state.index - 1, controls.max_new_tokens, controls.prefix
            ).decided
            + 1
        )
        scores = search.score(jnp.where(lost | state.done[:, None], -jnp.inf, state.scores), length)
        both = Pool(
            *(
                jnp.concatenate(pair, axis=1)
                for pair in (
                    (pool.ids, state.ids),
                    (pool.scores, scores),
                    (pool.lengths, lengths),
                )
            )
        )
        _, best = jax.lax.top_k(both.scores, search.beams)
        pool = jax.tree.map(lambda x: take(x, best), both)
        nothing = pool.scores == -jnp.inf
        pool = Pool(
            jnp.where(nothing[..., None], -1, pool.ids),
            pool.scores,
            jnp.where(nothing, 0, pool.lengths),
        )
    return Decoded(
        finish_ids(pool.ids[:, :results], ids.pad).reshape(batch * results, -1),
        pool.scores[:, :results].reshape(-1),
        pool.lengths[:, :results].reshape(-1),
    )


def advance(
    state: BeamState,
    step: BeamStep,
    row_keys: jax.Array,
    controls: Controls,
    search: Search,
    ids: Ids,
) -> BeamState:
    """One more id a beam."""
    batch, beams, width = state.ids.shape
    index = state.index
    # Each beam's newest id is in its own slot.
    own = jnp.broadcast_to(jnp.arange(beams)[:, None], (batch, beams, 1))
    ancestry = jax.lax.dynamic_update_slice(state.ancestry, own, (0, 0, index))
    tokens = jax.lax.dynamic_index_in_dim(state.ids, index, axis=2, keepdims=False)
    logits, cache = step(tokens.reshape(-1), state.cache, index, ancestry)
    prefix = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), beams, axis=0), controls.prefix)
    context = make_context(
        state.ids.reshape(-1, width),
        index,
        controls.max_new_tokens,
        prefix,
        state.scores.reshape(-1) > -jnp.inf,
        beams,
    )
    log_p = apply_processors(
        controls.processors, jax.nn.log_softmax(logits), context, state.processors
    )
    if isinstance(controls.sampler, Sample):
        log_p = controls.sampler.restrict(log_p)
    if search.renormalize:
        log_p = jax.nn.log_softmax(log_p)
    totals = log_p.reshape(batch, beams, -1) + state.scores[:, :, None]
    # A mask of -1e9, or of the dtype's minimum, forbids as minus infinity does.
    totals = jnp.where(totals > FORBIDDEN, totals, -jnp.inf)

    # 1. Candidates: enough that K go on although K end.
    count = max(2, 1 + len(ids.eos)) * beams
    if search.phrases is None:
        scores, parents, chosen = _candidates(totals, count, controls, search, row_keys, index)
        place = jnp.arange(count)
    else:
        there = jax.tree.map(lambda x: x.reshape(batch, beams, *x.shape[1:]), state.progress)
        scores, parents, chosen, bank = search.phrases.candidates(totals, there, ids.eos)
        place = places(scores, bank)
    inputs = make_context(state.ids[:, 0], index, controls.max_new_tokens, controls.prefix)
    length, last = inputs.decided + 1, (inputs.remaining <= 1)[:, None]
    longest = controls.max_new_tokens
    if search.t5x:
        # T5X's lengths count what was given, and the longest the start id.
        before = 0 if controls.prefix is None else controls.prefix.lengths
        length, longest = length + before, longest + before + 1
    ended = jnp.isin(chosen, jnp.asarray(ids.eos))
    if controls.stop is not None:
        stop = take(state.stop.reshape(batch, beams), parents).reshape(-1)
        ended |= advance_stop(controls, stop, chosen.reshape(-1))[1].reshape(ended.shape)
    # transformers puts what is cut off at the end into the pool as well.
    finished = ended if search.t5x else ended | last
    if search.phrases is not None:
        # What a stop string ends too early is lost.
        scores = jnp.where(ended & (bank < search.phrases.whole), -jnp.inf, scores)
        finished &= bank == search.phrases.whole

    # 2. Those that go on.
    unended = jnp.where(ended, -jnp.inf, scores)
    if search.phrases is None:
        running, best = jax.lax.top_k(unended, beams)
    else:
        running, best = share_out(unended, bank, beams)
    parents_on, chosen_on = take(parents, best), take(chosen, best)
    decided, given = given_ids(controls, index)
    # While ids are given, every beam goes on as it is.
    running = jnp.where(decided[:, None], running, state.scores)
    parents_on = jnp.where(decided[:, None], parents_on, jnp.arange(beams))
    chosen_on = jnp.where(decided[:, None], chosen_on, given[:, None])

    # 3. Those that enter the pool.
    enters = finished & decided[:, None] & ~state.done[:, None]
    enters &= place < (count if search.t5x else beams)
    entering = jnp.where(enters, search.score(scores, length), -jnp.inf)
    pool = _merge(state, entering, parents, chosen, index)

    # 4. Whether the pool can still become better.
    alive = running[:, 0] > -jnp.inf
    hypothetical = jnp.full_like(length, longest) if search.longest else length
    possible = search.score(running[:, 0], hypothetical)
    # Minus infinity where the pool is not full.
    better = possible >= pool.scores[:, -1] if search.t5x else possible > pool.scores[:, -1]
    stops = last[:, 0] | ~alive | ~better
    if search.full:
        stops |= pool.scores[:, -1] > -jnp.inf

    flat = (jnp.arange(batch)[:, None] * beams + parents_on).reshape(-1)
    processors, stop, progress = jax.tree.map(
        lambda x: x[flat], (state.processors, state.stop, state.progress)
    )
    new = chosen_on.reshape(-1)
    given_or_not = jnp.repeat(decided, beams) if len(decided) > 1 else decided
    hypotheses = jax.lax.dynamic_update_slice(
        take(state.ids, parents_on), chosen_on[..., None], (0, 0, index + 1)
    )
    if search.t5x:
        # An input that is done may still give what is running (see `finish`), as it was then.
        hypotheses = jnp.where(state.done[:, None, None], state.ids, hypotheses)
        running = jnp.where(state.done[:, None], state.scores, running)
    return BeamState(
        index=index + 1,
        ids=hypotheses,
        scores=running,
        done=state.done | (decided & stops),
        pool=pool,
        ancestry=take(ancestry, parents_on),
        processors=advance_processors(controls.processors, processors, new, given_or_not),
        stop=advance_stop(controls, stop, new)[0],
        progress=() if search.phrases is None else search.phrases.advance(progress, new),
        cache=cache,
    )


def _candidates(
    totals: jax.Array,
    count: int,
    controls: Controls,
    search: Search,
    row_keys: jax.Array,
    index: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Totals float32[B, K, V] -> those of `count` candidates, best or drawn, and whose they are.

    Returns:
      [B, count] each: totals, parents' numbers, ids.
    """
    batch, beams, vocab = totals.shape
    # Of equals T5X takes that of the worst beam first.
    flat = (totals[:, ::-1] if search.t5x else totals).reshape(batch, -1)
    scores, at = _best_or_drawn(flat, count, controls, row_keys, index)
    parents = at // vocab
    return scores, beams - 1 - parents if search.t5x else parents, (at % vocab).astype(jnp.int32)


def _best_or_drawn(
    totals: jax.Array, count: int, controls: Controls, row_keys: jax.Array, index: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Totals float32[B, N] -> `count` of them, and their places."""
    if not isinstance(controls.sampler, Sample):
        return largest(totals, count)
    keys = jax.random.wrap_key_data(row_keys, impl="threefry2x32")
    keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, totals.shape[-1:]))(keys)
    # The largest sums with Gumbel noise are draws without replacement (arXiv:1903.06059).
    _, at = largest(totals + noise, count)
    return take(totals, at), at


def _merge(
    state: BeamState, entering: jax.Array, parents: jax.Array, chosen: jax.Array, index: jax.Array
) -> Pool:
    """The pool with candidates whose scores `entering` float32[B, M] are not minus infinity."""
    pool = state.pool
    beams = pool.scores.shape[1]
    scores, best = jax.lax.top_k(jnp.concatenate([pool.scores, entering], axis=1), beams)
    old = best < beams
    candidate = jnp.maximum(best - beams, 0)
    ids = jax.lax.dynamic_update_slice(
        take(state.ids, take(parents, candidate)),
        take(chosen, candidate)[..., None],
        (0, 0, index + 1),
    )
    kept = jnp.minimum(best, beams - 1)
    return Pool(
        jnp.where(old[..., None], take(pool.ids, kept), ids),
        scores,
        jnp.where(old, take(pool.lengths, kept), index + 1),
    )
