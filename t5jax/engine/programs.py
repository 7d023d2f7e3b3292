"""The compiled programs.

They are module-level functions of hashable networks, so every Text2Text of one architecture shares
them.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.decoding import assisted, beam, loop
from t5jax.decoding.controls import Controls
from t5jax.model.contract import Network, Params


@functools.partial(jax.jit, static_argnames="model")
def encode(model: Network, params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """int32[B, S], bool[B, S], True at tokens -> hidden states [B, S, D]."""
    return model.encode(params, ids, mask.astype(jnp.int32))


@flax.struct.dataclass
class Forced:
    """Encoded inputs with targets, for a teacher-forced pass.

    `hidden` [B, S, D], `mask` bool[B, S]: the inputs. `targets` int32[B, T].
    """

    hidden: jax.Array
    mask: jax.Array
    targets: Any

    def prefix(self, start: int) -> jax.Array:
        """The decoder's input: the start id, all targets but the last."""
        first = jnp.full_like(self.targets[:, :1], start)
        return jnp.concatenate([first, self.targets[:, :-1]], axis=1)


@functools.partial(jax.jit, static_argnames="model")
def logits(
    model: Network, params: Params, hidden: jax.Array, mask: jax.Array, prefix: jax.Array
) -> jax.Array:
    """Teacher-forced: an encoded input, int32[B, T] with the start id -> float32[B, T, V]."""
    return model.decode(params, hidden, mask.astype(jnp.int32), prefix)


@functools.partial(jax.jit, static_argnames="model")
def token_scores(model: Network, params: Params, forced: Forced) -> jax.Array:
    """float32[B, T]: log p of each target id after those before it."""
    prefix = forced.prefix(model.config.decoder_start_token_id)
    logits = model.decode(params, forced.hidden, forced.mask.astype(jnp.int32), prefix)
    log_p = jnp.take_along_axis(logits, forced.targets[:, :, None], axis=-1)[:, :, 0]
    return log_p - jax.nn.logsumexp(logits, axis=-1)


@functools.partial(jax.jit, static_argnames="model")
def score(model: Network, params: Params, forced: Forced, scored: jax.Array) -> jax.Array:
    """float32[B]: the sum of `token_scores` where `scored` bool[B, T]."""
    log_p = token_scores(model, params, forced)
    return jnp.sum(jnp.where(scored, log_p, 0.0), axis=1)


@functools.partial(jax.jit, static_argnames="model")
def cross_attention(model: Network, params: Params, forced: Forced) -> jax.Array:
    """float32[B, L, N, T, S]: where each layer and head looked when each id was decided."""
    prefix = forced.prefix(model.config.decoder_start_token_id)
    segments = forced.mask.astype(jnp.int32)
    return model.trace_decoder(params, forced.hidden, segments, prefix).cross_attention


@flax.struct.dataclass
class Job:
    """The input of a decoding program: B inputs in R rows, or in beams.

    `hidden` [B, S, D], `mask` bool[B, S]: the inputs. `done` bool[R], or [B] with beams: what only
    fills the batch up. `controls`: how to decode.
    """

    hidden: jax.Array
    mask: jax.Array
    done: Any
    controls: Controls


@flax.struct.dataclass
class Begun:
    """The state that a decoding program hands to the next, which has more room.

    `cross_kv`: the cross-attention's keys and values. `state`: `LoopState` or `BeamState`.
    """

    cross_kv: Any
    state: Any


@functools.partial(jax.jit, static_argnames=("model", "room", "last", "block"))
def decode(
    model: Network,
    params: Params,
    job: Job,
    begun: Begun | None = None,
    until: jax.Array | None = None,
    *,
    room: int,
    last: bool,
    block: int,
) -> tuple[loop.Decoded, Begun | None]:
    """Decodes from the start, or from where another program ended.

    Until all rows have ended, or have `room` ids, or `until`; `last` says that nothing goes on
    after it. See `t5jax.decoding.loop` and, for a job with `controls.search`, `beam`.
    """
    controls = job.controls
    if begun is None:
        begun = _begin(model, params, job, room)
    else:
        begun = Begun(begun.cross_kv, begun.state.extend(room))
    state, network = begun.state, _bind(model, params, begun.cross_kv, job.mask)
    if controls.search is None:
        state = loop.decode(state, network, controls, block, until)
        decoded = loop.finish(state, controls)
    else:
        state = beam.decode(state, network, controls, block, until)
        decoded = beam.finish(state, job.done, controls, cut=until is not None)
    return decoded, None if last else Begun(begun.cross_kv, state)


@functools.partial(jax.jit, static_argnames=("model", "room"))
def begin(model: Network, params: Params, job: Job, *, room: int) -> Begun:
    """The cross-attention's keys and values, and the state before the first step."""
    return _begin(model, params, job, room)


def _begin(model: Network, params: Params, job: Job, room: int) -> Begun:
    cross_kv = model.cross_kv(params, job.hidden)
    search = job.controls.search
    cache = model.init_cache(len(job.done), room, 1 if search is None else search.beams)
    first = loop.begin if search is None else beam.begin
    return Begun(cross_kv, first(cache, job.done, job.controls, room))


@functools.partial(jax.jit, static_argnames="room")
def extend(state: loop.LoopState, room: int) -> loop.LoopState:
    """The state with room for `room` ids."""
    return state.extend(room)


@functools.partial(jax.jit, static_argnames=("model", "steps"), donate_argnames="state")
def advance(
    model: Network, params: Params, job: Job, cross_kv: Any, state: loop.LoopState, *, steps: int
) -> loop.LoopState:
    """`steps` more ids a row; the state given is used up."""
    network = _bind(model, params, cross_kv, job.mask)

    def one(state: loop.LoopState, _: None) -> tuple[loop.LoopState, None]:
        return loop.advance(state, network, job.controls), None

    if steps == 1:
        return one(state, None)[0]
    return jax.lax.scan(one, state, length=steps)[0]


@functools.partial(jax.jit, static_argnames=("model", "assistant", "length", "guesses"))
def decode_assisted(
    model: Network,
    params: Params,
    job: Job,
    assistant: Network,
    assistant_params: Params,
    assistant_hidden: jax.Array,
    assistant_mask: jax.Array,
    *,
    length: int,
    guesses: int,
) -> tuple[loop.Decoded, jax.Array, jax.Array]:
    """`decode` with guesses of another model; see `t5jax.decoding.assisted.decode`."""
    cross_kv = model.cross_kv(params, job.hidden)
    theirs = assistant.cross_kv(assistant_params, assistant_hidden)

    def verify(tokens: jax.Array, cache: Any, index: jax.Array) -> Any:
        args = (tokens, cross_kv, job.mask, cache, index)
        x, cache = model.decode_hidden_several(params, *args)
        return model.logits(params, x), cache

    rows, room = len(job.done), length + guesses
    return assisted.decode(
        verify,
        model.init_cache(rows, room),
        _bind(assistant, assistant_params, theirs, assistant_mask),
        assistant.init_cache(rows, room),
        job.done,
        job.controls,
        length=length,
        guesses=guesses,
    )


def _bind(model: Network, params: Params, cross_kv: Any, mask: jax.Array) -> loop.BoundNetwork:
    def step(tokens: jax.Array, cache: Any, index: jax.Array, *ancestry: jax.Array) -> Any:
        return model.decode_hidden(params, tokens, cross_kv, mask, cache, index, *ancestry)

    return loop.BoundNetwork(step, lambda hidden: model.logits(params, hidden))
