"""T5X's own network, sampling and beam search. Its sources on PYTHONPATH suffice."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

import t5jax
from contenders.inputs import random_ids
from t5jax.formats.checkpoint import tensors_of
from t5jax.model.t5 import t5x

# Only its network and decoding modules are imported; the package needs libraries that are not
# released, or do not run with current JAX.
found = importlib.util.find_spec("t5x")
if found is None:
    raise ModuleNotFoundError("the sources of T5X are not on PYTHONPATH")
_package = types.ModuleType("t5x")
_package.__path__ = list(found.submodule_search_locations or [])
sys.modules["t5x"] = _package


def decoding(folder: str, dtype: str) -> Callable:
    """Greedy decoding, or beam search: ids of int[rows, outputs]."""
    rules = importlib.import_module("t5x.decoding")
    network = importlib.import_module("t5x.examples.t5.network")
    t5 = t5jax.load(folder)
    config = t5.config
    fields = t5x.network_fields(config) | {"dtype": jnp.dtype(dtype)}
    model = network.Transformer(network.T5Config(**fields))
    tensors = tensors_of(config, t5.params)
    weights = {
        row.names[0]: row.transform.write(tensors[row.path].read())
        for row in t5x.rows(config, stacked=False)
    }
    tree = jax.device_put(unflatten_dict(weights, sep="/"))

    @partial(jax.jit, static_argnames=("outputs", "beams"))
    def decode(tree, ids: jax.Array, outputs: int, beams: int) -> jax.Array:
        apply = partial(model.apply, enable_dropout=False)
        prompt = jnp.zeros((len(ids), outputs), jnp.int32)
        encoded = apply({"params": tree}, ids, method=model.encode)
        ones = jnp.ones_like(prompt)
        _, start = apply(
            {"params": tree}, jnp.ones_like(ids), ones, ones, decode=True, mutable=["cache"]
        )
        repeat = partial(jnp.repeat, repeats=beams, axis=0)

        def logits(state):
            found, changed = apply(
                {"params": tree, "cache": state.cache}, repeat(encoded), repeat(ids),
                state.cur_token, state.cur_token, decode=True, max_decode_length=outputs,
                mutable=["cache"], method=model.decode,
            )  # fmt: skip
            # Never EOS.
            return found[:, 0].at[:, config.eos_token_id].set(-1e9), changed["cache"]

        options = {"eos_id": config.eos_token_id, "num_decodes": beams}
        if beams > 1:
            found, _ = rules.beam_search(prompt, start["cache"], logits, **options)
        else:
            found, _ = rules.temperature_sample(
                prompt, start["cache"], logits, temperature=0.0, **options
            )
        return found[:, -1]  # the best beam

    def prepare(rows: int, inputs: int, outputs: int, beams: int) -> Callable[[], np.ndarray]:
        ids = random_ids(folder, rows, inputs)
        return lambda: np.asarray(decode(tree, ids, outputs, beams))[:, -outputs:]

    return prepare
