"""The compiled programs.

They are module-level functions of hashable models, so every Text2Text of one architecture shares
them.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.decoding import assisted, beam, loop
from t5jax.decoding.controls import Controls, Ids
from t5jax.model.contract import Network, Params


@functools.partial(jax.jit, static_argnames="model")
def encode(model: Network, params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """int32[B, S], bool[B, S], True at tokens -> hidden states [B, S, D]."""
    return model.encode(params, ids, mask.astype(jnp.int32))


@functools.partial(jax.jit, static_argnames="model")
def logits(
    model: Network, params: Params, hidden: jax.Array, mask: jax.Array, prefix: jax.Array
) -> jax.Array:
    """Teacher-forced: an encoded input, int32[B, T] with the start id -> float32[B, T, V]."""
    return model.decode(params, hidden, mask.astype(jnp.int32), prefix)


@functools.partial(jax.jit, static_argnames="model")
def token_scores(model: Network, params: Params, hidden: Any, mask: Any, targets: Any) -> jax.Array:
    """float32[B, T]: log p of each id of targets int32[B, T] after those before it.

    `hidden` [B, S, D] and `mask` bool[B, S] are the encoder's.
    """
    prefix = shift_right(targets, model.config.decoder_start_token_id)
    logits = model.decode(params, hidden, mask.astype(jnp.int32), prefix)
    log_p = jnp.take_along_axis(logits, targets[:, :, None], axis=-1)[:, :, 0]
    return log_p - jax.nn.logsumexp(logits, axis=-1)


@functools.partial(jax.jit, static_argnames="model")
def score(model: Network, params: Params, hidden: Any, mask: Any, targets: Any) -> jax.Array:
    """float32[B]: the sum of `token_scores`, padding left out."""
    log_p = token_scores(model, params, hidden, mask, targets)
    return jnp.sum(jnp.where(targets != model.config.pad_token_id, log_p, 0.0), axis=1)


@functools.partial(jax.jit, static_argnames="model")
def cross_attention(
    model: Network, params: Params, hidden: Any, mask: Any, targets: Any
) -> jax.Array:
    """float32[B, L, N, T, S]: where each layer and head looked when each id was decided."""
    prefix = shift_right(targets, model.config.decoder_start_token_id)
    return model.trace_decoder(params, hidden, mask.astype(jnp.int32), prefix).cross_attention


def shift_right(targets: jax.Array, start: int) -> jax.Array:
    """The decoder's input of teacher-forced targets int32[B, T]: the start id, all but the last."""
    return jnp.concatenate([jnp.full_like(targets[:, :1], start), targets[:, :-1]], axis=1)


@flax.struct.dataclass
class Begun:
    """What a program of decoding leaves to the next, which has more room.

    `cross_kv`: the cross-attention's keys and values. `state`: `loop.State` or `beam.BeamState`.
    """

    cross_kv: Any
    state: Any


@functools.partial(jax.jit, static_argnames=("model", "room", "last", "ids", "block"))
def decode(
    model: Network,
    params: Params,
    hidden: jax.Array,
    mask: jax.Array,
    row_keys: jax.Array,
    done: jax.Array,
    controls: Controls,
    begun: Begun | None = None,
    until: jax.Array | None = None,
    *,
    room: int,
    last: bool,
    ids: Ids,
    block: int,
) -> tuple[loop.Decoded, Begun | None]:
    """Greedy decoding or sampling of R rows, from the start or where another program ended.

    Until all rows have ended, or have `room` ids, or `until`; `last` says that nothing goes on
    after it. See `t5jax.decoding.loop`.
    """
    if begun is None:
        cross_kv = model.cross_kv(params, hidden)
        state = loop.begin(model.init_cache(len(done), room), done, controls, ids, room)
    else:
        cross_kv, state = begun.cross_kv, begun.state.extend(room)
    step = _step(model, params, cross_kv, mask, controls)
    state = loop.decode(state, step, row_keys, controls, ids, block, until)
    return loop.finish(state, ids), None if last else Begun(cross_kv, state)


@functools.partial(jax.jit, static_argnames=("model", "room", "last", "ids", "block", "results"))
def beam_search(
    model: Network,
    params: Params,
    hidden: jax.Array,
    mask: jax.Array,
    row_keys: jax.Array,
    done: jax.Array,
    controls: Controls,
    search: beam.Search,
    begun: Begun | None = None,
    until: jax.Array | None = None,
    *,
    room: int,
    last: bool,
    ids: Ids,
    block: int,
    results: int,
) -> tuple[loop.Decoded, Begun | None]:
    """Like `decode`, beam search for B inputs; see `t5jax.decoding.beam`."""
    if begun is None:
        cross_kv = model.cross_kv(params, hidden)
        cache = model.init_cache(len(done), room, search.beams)
        state = beam.begin(cache, done, controls, search, ids, room)
    else:
        cross_kv, state = begun.cross_kv, begun.state.extend(room)
    step = _step(model, params, cross_kv, mask, controls)
    state = beam.beam_search(state, step, row_keys, controls, search, ids, block, until)
    decoded = beam.finish(state, done, controls, search, ids, results, cut=until is not None)
    return decoded, None if last else Begun(cross_kv, state)


@functools.partial(jax.jit, static_argnames=("model", "assistant", "length", "ids", "guesses"))
def decode_assisted(
    model: Network,
    params: Params,
    hidden: jax.Array,
    mask: jax.Array,
    row_keys: jax.Array,
    done: jax.Array,
    controls: Controls,
    assistant: Network,
    assistant_params: Params,
    assistant_hidden: jax.Array,
    *,
    length: int,
    ids: Ids,
    guesses: int,
) -> tuple[loop.Decoded, jax.Array, jax.Array]:
    """`decode` with guesses of another model; see `t5jax.decoding.assisted.decode`."""
    cross_kv = model.cross_kv(params, hidden)
    theirs = assistant.cross_kv(assistant_params, assistant_hidden)

    def verify(tokens: jax.Array, cache: Any, index: jax.Array) -> Any:
        args = (tokens, cross_kv, mask, cache, index)
        x, cache = model.decode_hidden_several(params, *args)
        return model.logits(params, x), cache

    return assisted.decode(
        verify,
        model.init_cache(len(done), length + guesses),
        _step(assistant, assistant_params, theirs, mask, controls),
        assistant.init_cache(len(done), length + guesses),
        row_keys,
        done,
        controls=controls,
        ids=ids,
        length=length,
        guesses=guesses,
    )


@functools.partial(jax.jit, static_argnames=("model", "length", "ids"))
def begin(
    model: Network,
    params: Params,
    hidden: jax.Array,
    done: jax.Array,
    controls: Controls,
    *,
    length: int,
    ids: Ids,
) -> tuple[Any, loop.State]:
    """The cross-attention's keys and values, and the state before the first step."""
    cross_kv = model.cross_kv(params, hidden)
    cache = model.init_cache(len(done), length)
    return cross_kv, loop.begin(cache, done, controls, ids, length)


@functools.partial(jax.jit, static_argnames="length")
def extend(state: loop.State, length: int) -> loop.State:
    """The state with room for `length` ids."""
    return state.extend(length)


@functools.partial(jax.jit, static_argnames=("model", "ids", "steps"), donate_argnames="state")
def advance(
    model: Network,
    params: Params,
    cross_kv: Any,
    mask: jax.Array,
    row_keys: jax.Array,
    controls: Controls,
    state: loop.State,
    *,
    ids: Ids,
    steps: int,
) -> loop.State:
    """`steps` more ids a row; the state given is used up."""
    step = _step(model, params, cross_kv, mask, controls)

    def one(state: loop.State, _: None) -> tuple[loop.State, None]:
        return loop.advance(state, step, row_keys, controls, ids), None

    if steps == 1:
        return one(state, None)[0]
    return jax.lax.scan(one, state, length=steps)[0]


def _step(
    model: Network, params: Params, cross_kv: Any, mask: jax.Array, controls: Controls
) -> Any:
    def step(tokens: jax.Array, cache: Any, index: jax.Array, *ancestry: jax.Array) -> Any:
        x, cache = model.decode_hidden(params, tokens, cross_kv, mask, cache, index, *ancestry)
        return (model.logits(params, x) if controls.shortlist is None else x), cache

    return step
