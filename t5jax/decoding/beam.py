"""Beam search with transformers' meaning or T5X's.

An input's K running hypotheses ("beams") each go on with their likeliest ids; the best K of those
that have not ended run on, those that ended enter a pool of the K best. Letters: B inputs, K beams,
M candidates of a step, V vocabulary, T positions.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.decoding.controls import Controls
from t5jax.decoding.loop import (
    BoundNetwork,
    Decoded,
    advance_processors,
    advance_stop,
    apply_processors,
    finish_ids,
    given_ids,
    make_context,
    run,
    start_processors,
    step_keys,
)
from t5jax.decoding.phrases import Candidates, places, share_out
from t5jax.decoding.processors import FORBIDDEN
from t5jax.decoding.rules import Hypotheses, Search
from t5jax.decoding.samplers import Sample
from t5jax.ops.selection import largest, take


@flax.struct.dataclass
class BeamState:
    """The state of B inputs with K beams between two steps.

    `ids` int32[B, K, 1 + T] and `scores` float32[B, K], the sums of log-probabilities, are of the
    running beams, best first; minus infinity: no beam. `done` bool[B]. `pool`: what has finished,
    best first. `ancestry` int32[B, K, T]: whose slot of the cache holds a beam's past.
    `processors`, `stop`, `progress` of the phrases: leaves [B * K, …]; the last two None without.
    """

    index: jax.Array
    ids: jax.Array
    scores: jax.Array
    done: jax.Array
    pool: Hypotheses
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


class Step(NamedTuple):
    """Facts about one step for each input, [B] or [1].

    `decided` bool: whether the next id is decided, not given. `given` int32: which it is if not.
    `last` bool: whether it is the last one. `length`, `longest` int32: the lengths that score.
    """

    decided: jax.Array
    given: jax.Array
    last: jax.Array
    length: jax.Array
    longest: jax.Array


def begin(cache: Any, done: jax.Array, controls: Controls, length: int) -> BeamState:
    """The state before the first step.

    Args:
      cache: as it is then, with room for `length` steps.
      done: bool[B], inputs that only fill the batch up and stay empty.
      controls, length: as in `loop.begin`. A sampler that draws makes the candidates draws without
        replacement.
    """
    search, start = _search(controls), controls.ids.start
    batch, beams = len(done), search.beams
    tokens = jnp.full(batch * beams, start, jnp.int32)
    empty = jnp.full((batch, beams, 1 + length), -1, jnp.int32).at[:, :, 0].set(start)
    nothing = jnp.full((batch, beams), -jnp.inf)
    return BeamState(
        index=jnp.int32(0),
        ids=empty,
        # One beam: its equals would give every candidate K times.
        scores=nothing.at[:, 0].set(0.0),
        done=done,
        pool=Hypotheses(empty, nothing, jnp.zeros((batch, beams), jnp.int32)),
        ancestry=jnp.full((batch, beams, length), -1, jnp.int32),
        processors=start_processors(controls.processors, tokens),
        stop=None if controls.stop is None else controls.stop.start(batch * beams),
        progress=None if search.phrases is None else search.phrases.start(batch * beams),
        cache=cache,
    )


def decode(
    state: BeamState,
    network: BoundNetwork,
    controls: Controls,
    block: int,
    until: jax.Array | None = None,
) -> BeamState:
    """Searches until all inputs have ended, or room is used up; arguments as of `loop.decode`."""
    room = state.ancestry.shape[2] if until is None else until
    return run(state, lambda s: advance(s, network, controls), room, block)


def finish(state: BeamState, done: jax.Array, controls: Controls, *, cut: bool = False) -> Decoded:
    """The best `search.results` hypotheses of each input, best first.

    Where constraints leave fewer, the rest is empty with scores of -inf.

    Args:
      state: after the last step.
      done, controls: as in `begin`.
      cut: static, whether inputs that have not ended end here.
    """
    search = _search(controls)
    results = search.results
    lost = done[:, None] | (state.scores == -jnp.inf)
    if search.phrases is not None:
        lost |= ~search.phrases.holds(state.progress).reshape(lost.shape)
    lengths = jnp.sum(state.ids >= 0, axis=-1) - 1
    running = Hypotheses(state.ids, state.scores, lengths).without(lost)
    decided = make_context(
        state.ids[:, 0], state.index - 1, controls.max_new_tokens, controls.prefix
    ).decided
    scores = search.score(running.scores, decided + 1)
    pool = search.rule.results(state.pool, running, scores, state.done, cut)
    return Decoded(
        finish_ids(pool.ids[:, :results], controls.ids.pad).reshape(len(done) * results, -1),
        pool.scores[:, :results].reshape(-1),
        pool.lengths[:, :results].reshape(-1),
    )


def advance(state: BeamState, network: BoundNetwork, controls: Controls) -> BeamState:
    """One more id a beam."""
    search, step = _search(controls), _step(state, controls)
    totals, ancestry, cache = _totals(state, network, controls)
    found = _candidates(totals, state, controls)
    found, ended, finished = _ended(found, state, controls, step)
    scores, parents, chosen = _go_on(found, ended, state, search, step)
    pool = _enter(found, finished, state, controls, step)
    stops = _stops(scores, pool, search, step)

    batch, beams, _ = state.ids.shape
    flat = (jnp.arange(batch)[:, None] * beams + parents).reshape(-1)
    processors, stop, progress = jax.tree.map(
        lambda x: x[flat], (state.processors, state.stop, state.progress)
    )
    new = chosen.reshape(-1)
    decided = step.decided
    decided_rows = jnp.repeat(decided, beams) if len(decided) > 1 else decided
    ids = jax.lax.dynamic_update_slice(
        take(state.ids, parents), chosen[..., None], (0, 0, state.index + 1)
    )
    ids, scores = search.rule.running((ids, scores), (state.ids, state.scores), state.done)
    return BeamState(
        index=state.index + 1,
        ids=ids,
        scores=scores,
        done=state.done | (decided & stops),
        pool=pool,
        ancestry=take(ancestry, parents),
        processors=advance_processors(controls.processors, processors, new, decided_rows),
        stop=advance_stop(controls, stop, new)[0],
        progress=None if search.phrases is None else search.phrases.advance(progress, new),
        cache=cache,
    )


def _search(controls: Controls) -> Search:
    assert controls.search is not None
    return controls.search


def _step(state: BeamState, controls: Controls) -> Step:
    context = make_context(state.ids[:, 0], state.index, controls.max_new_tokens, controls.prefix)
    decided, given = given_ids(controls, state.index)
    before = 0 if controls.prefix is None else controls.prefix.lengths
    length, longest = _search(controls).rule.lengths(
        context.decided + 1, controls.max_new_tokens, before
    )
    return Step(decided, given, context.remaining <= 1, length, longest)


def _totals(
    state: BeamState, network: BoundNetwork, controls: Controls
) -> tuple[jax.Array, jax.Array, Any]:
    """Each beam's score with each next id, float32[B, K, V]; its ancestry; the cache."""
    batch, beams, width = state.ids.shape
    index = state.index
    # Each beam's newest id is in its own slot.
    own = jnp.broadcast_to(jnp.arange(beams)[:, None], (batch, beams, 1))
    ancestry = jax.lax.dynamic_update_slice(state.ancestry, own, (0, 0, index))
    tokens = jax.lax.dynamic_index_in_dim(state.ids, index, axis=2, keepdims=False)
    hidden, cache = network.step(tokens.reshape(-1), state.cache, index, ancestry)
    prefix = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), beams, axis=0), controls.prefix)
    context = make_context(
        state.ids.reshape(-1, width),
        index,
        controls.max_new_tokens,
        prefix,
        state.scores.reshape(-1) > -jnp.inf,
        beams,
    )
    log_p = jax.nn.log_softmax(network.logits(hidden))
    log_p = apply_processors(controls.processors, log_p, context, state.processors)
    if isinstance(controls.sampler, Sample):
        log_p = controls.sampler.restrict(log_p)
    if _search(controls).renormalize:
        log_p = jax.nn.log_softmax(log_p)
    totals = log_p.reshape(batch, beams, -1) + state.scores[:, :, None]
    # A mask of -1e9, or of the dtype's minimum, forbids as minus infinity does.
    return jnp.where(totals > FORBIDDEN, totals, -jnp.inf), ancestry, cache


def _candidates(totals: jax.Array, state: BeamState, controls: Controls) -> Candidates:
    """Of totals float32[B, K, V] the best, or drawn: enough that K go on although K end."""
    batch, beams, vocab = totals.shape
    search, eos = _search(controls), controls.ids.eos
    if search.phrases is not None:
        there = jax.tree.map(lambda x: x.reshape(batch, beams, *x.shape[1:]), state.progress)
        return search.phrases.candidates(totals, there, eos)
    count = max(2, 1 + len(eos)) * beams
    flat = search.rule.order(totals).reshape(batch, -1)
    if isinstance(controls.sampler, Sample):
        keys = step_keys(controls.keys, state.index)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, flat.shape[-1:]))(keys)
        # The largest sums with Gumbel noise are draws without replacement (arXiv:1903.06059).
        _, at = largest(flat + noise, count)
        scores = take(flat, at)
    else:
        scores, at = largest(flat, count)
    parents = search.rule.parents(at // vocab, beams)
    return Candidates(scores, parents, (at % vocab).astype(jnp.int32))


def _ended(
    found: Candidates, state: BeamState, controls: Controls, step: Step
) -> tuple[Candidates, jax.Array, jax.Array]:
    """The candidates, and bool[B, M] each: which have ended, which may enter the pool."""
    batch, beams, _ = state.ids.shape
    search = _search(controls)
    ended = jnp.isin(found.chosen, jnp.asarray(controls.ids.eos))
    if controls.stop is not None:
        stop = take(state.stop.reshape(batch, beams), found.parents).reshape(-1)
        ended |= advance_stop(controls, stop, found.chosen.reshape(-1))[1].reshape(ended.shape)
    finished = search.rule.finished(ended, step.last[:, None])
    if search.phrases is not None and found.bank is not None:
        # What a stop string ends too early is lost.
        lost = ended & (found.bank < search.phrases.whole)
        found = found._replace(scores=jnp.where(lost, -jnp.inf, found.scores))
        finished &= found.bank == search.phrases.whole
    return found, ended, finished


def _go_on(
    found: Candidates, ended: jax.Array, state: BeamState, search: Search, step: Step
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The candidates that run on, [B, K] each: totals, parents' numbers, ids."""
    beams = search.beams
    unended = jnp.where(ended, -jnp.inf, found.scores)
    if found.bank is None:
        running, best = jax.lax.top_k(unended, beams)
    else:
        running, best = share_out(unended, found.bank, beams)
    parents, chosen = take(found.parents, best), take(found.chosen, best)
    # While ids are given, every beam goes on as it is.
    decided = step.decided[:, None]
    running = jnp.where(decided, running, state.scores)
    parents = jnp.where(decided, parents, jnp.arange(beams))
    return running, parents, jnp.where(decided, chosen, step.given[:, None])


def _enter(
    found: Candidates, finished: jax.Array, state: BeamState, controls: Controls, step: Step
) -> Hypotheses:
    """The pool with the candidates that enter it."""
    search = _search(controls)
    pool, index, beams = state.pool, state.index, search.beams
    count = max(2, 1 + len(controls.ids.eos)) * beams
    place = jnp.arange(count) if found.bank is None else places(found.scores, found.bank)
    enters = finished & step.decided[:, None] & ~state.done[:, None]
    enters &= place < search.rule.entrants(beams, count)
    entering = jnp.where(enters, search.score(found.scores, step.length), -jnp.inf)
    scores, best = jax.lax.top_k(jnp.concatenate([pool.scores, entering], axis=1), beams)
    old = best < beams
    candidate = jnp.maximum(best - beams, 0)
    ids = jax.lax.dynamic_update_slice(
        take(state.ids, take(found.parents, candidate)),
        take(found.chosen, candidate)[..., None],
        (0, 0, index + 1),
    )
    kept = jnp.minimum(best, beams - 1)
    return Hypotheses(
        jnp.where(old[..., None], take(pool.ids, kept), ids),
        scores,
        jnp.where(old, take(pool.lengths, kept), index + 1),
    )


def _stops(scores: jax.Array, pool: Hypotheses, search: Search, step: Step) -> jax.Array:
    """bool[B]: inputs whose pool cannot become better by what runs on, `scores` float32[B, K]."""
    alive = scores[:, 0] > -jnp.inf
    possible = search.score(scores[:, 0], step.longest)
    worst = pool.scores[:, -1]  # minus infinity where the pool is not full
    stops = step.last | ~alive | ~search.rule.improves(possible, worst)
    if search.rule.full:
        stops |= worst > -jnp.inf
    return stops
