"""The decoding loop: one compiled program from the first token to the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5jax.decoding import processors
from t5jax.decoding.samplers import Greedy, Sample

Step = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class Ids:
    """The ids that mean something to the loop."""

    start: int
    pad: int
    eos: tuple[int, ...]
    limit: int  # ids from here on are never produced


@flax.struct.dataclass
class Decoded:
    """R sequences.

    `ids` int32[R, T]: without the start id, ending in EOS where one came, then padding.
    `scores` float32[R]: the sum of the model's log-probabilities of the ids (nats), before any
    temperature or restriction. `lengths` int32[R]: ids that are no padding.
    """

    ids: jax.Array
    scores: jax.Array
    lengths: jax.Array


@flax.struct.dataclass
class _State:
    index: jax.Array
    tokens: jax.Array
    done: jax.Array
    out: Decoded
    cache: Any


def decode(
    step: Step,
    cache: Any,
    row_keys: jax.Array,
    done: jax.Array,
    *,
    length: int,
    max_new_tokens: jax.Array,
    min_new_tokens: jax.Array,
    ids: Ids,
    sampler: Greedy | Sample,
    block: int,
) -> Decoded:
    """Decodes rows until all have ended, or have `max_new_tokens`.

    Args:
      step: `logits, cache = step(tokens int32[R], cache, index)`, logits float32[R, V].
      cache: the state before the first step; it must have room for `length` steps.
      row_keys: uint32[R, 2], threefry key data, one a row.
      done: bool[R], rows that only fill the batch up and stay empty.
      length: static, a multiple of `block`; columns of the result.
      max_new_tokens, min_new_tokens: int32 scalars, traced, so that they compile nothing anew.
      ids: special ids.
      sampler: picks the next id.
      block: steps between two looks at whether all have ended. On an accelerator each look
        waits for the device, so several steps go together.
    """
    rows = row_keys.shape[0]
    keys = jax.random.wrap_key_data(row_keys, impl="threefry2x32")

    def one(state: _State) -> _State:
        raw, cache = step(state.tokens, state.cache, state.index)
        logits = processors.keep_below(raw, ids.limit)
        logits = processors.no_end_before(logits, state.index, min_new_tokens, ids.eos)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, state.index))(keys)
        chosen = sampler(logits, step_keys)
        live = ~state.done & (state.index < max_new_tokens)
        log_p = jnp.take_along_axis(raw, chosen[:, None], axis=-1)[:, 0]
        log_p = log_p - jax.nn.logsumexp(raw, axis=-1)
        tokens = jnp.where(live, chosen, ids.pad)
        out = Decoded(
            ids=jax.lax.dynamic_update_slice(state.out.ids, tokens[:, None], (0, state.index)),
            scores=state.out.scores + jnp.where(live, log_p, 0.0),
            lengths=state.out.lengths + live,
        )
        ended = jnp.isin(chosen, jnp.asarray(ids.eos))
        return _State(state.index + 1, tokens, state.done | ended, out, cache)

    def several(state: _State) -> _State:
        if block == 1:
            return one(state)
        return jax.lax.scan(lambda s, _: (one(s), None), state, length=block)[0]

    def unfinished(state: _State) -> jax.Array:
        return (state.index < max_new_tokens) & ~jnp.all(state.done)

    state = _State(
        index=jnp.int32(0),
        tokens=jnp.full(rows, ids.start, jnp.int32),
        done=done,
        out=Decoded(
            ids=jnp.full((rows, length), ids.pad, jnp.int32),
            scores=jnp.zeros(rows, jnp.float32),
            lengths=jnp.zeros(rows, jnp.int32),
        ),
        cache=cache,
    )
    return jax.lax.while_loop(unfinished, several, state).out
