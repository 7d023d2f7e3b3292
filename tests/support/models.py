"""Small models for tests."""

import functools
import zlib
from typing import Any

import jax
import numpy as np

from t5jax.engine.results import Generation
from t5jax.model.contract import Network
from t5jax.model.family import family_of
from t5jax.model.parameters import for_serving, init_params
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.network import T5
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary

TINY = T5Config(
    vocab_size=384,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_heads=4,
    num_layers=2,
    num_decoder_layers=3,
)


@functools.cache
def lively_params(config: T5Config, seed: int = 0):
    """Random parameters whose relative biases, norms and logits are far from trivial."""

    def stir(path, x):
        name = str(path[-1].key)
        if name not in ("scale", "rel_embedding"):
            return x
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(str(path).encode()) >> 1)
        noise = jax.random.normal(key, x.shape)
        return 1 + 0.3 * noise if name == "scale" else 2 * noise

    # One program: op by op, every shape would be compiled for itself.
    make = jax.jit(lambda key: jax.tree.map_with_path(stir, init_params(config, key)))
    return make(jax.random.key(seed))


@functools.cache
def serving(config: T5Config) -> Network:
    """The serving network in float32."""
    return family_of(config).serving(config, np.dtype("float32"))


@functools.cache
def serve(config: T5Config, method: str):
    """A method of the serving network, jitted: params first."""
    return jax.jit(getattr(serving(config), method))


@functools.cache
def serving_params(config: T5Config, seed: int = 0):
    """`lively_params` in the serving layout."""
    return jax.jit(functools.partial(for_serving, config))(lively_params(config, seed))


def teacher_forced(config: T5Config, inputs: np.ndarray, prefix: np.ndarray) -> jax.Array:
    """Logits of the serving network with `serving_params`."""
    params, segments = serving_params(config), (inputs != config.pad_token_id).astype(np.int32)
    hidden = serve(config, "encode")(params, inputs, segments)
    return serve(config, "decode")(params, hidden, segments, prefix)


@functools.cache
def apply(config: T5Config, method: str = "__call__", remat: str = "none"):
    """`model.apply` of a method of the training network, jitted: params first."""
    model = T5(config, remat=remat)
    return jax.jit(lambda params, *a, **k: model.apply({"params": params}, *a, method=method, **k))


def tiny_text2text(seed: int = 0, **options) -> Text2Text:
    return Text2Text(TINY, lively_params(TINY, seed), ByteVocabulary(), **options)


@functools.cache
def shared_text2text() -> Text2Text:
    """One for all tests that change nothing of it: making one compiles a program."""
    return tiny_text2text()


def random_ids(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 384, shape, dtype=np.int32)


@functools.cache
def nudged_text2text():
    """The shared model with its parameters some ten-thousandths off, one way and the other.

    Where these find what it finds, rounding decides no choice of the search, of kept or dropped
    hypotheses: it moves scores by far less.
    """
    params, rng = lively_params(TINY), np.random.default_rng(0)
    nudge = jax.tree.map(lambda x: x * rng.normal(0, 3e-4, x.shape).astype(np.float32), params)
    both = jax.tree.map(np.add, params, nudge), jax.tree.map(np.subtract, params, nudge)
    return [Text2Text(TINY, nudged, ByteVocabulary()) for nudged in both]


def settled(found: Generation, inputs: np.ndarray, **options: Any) -> list[bool]:
    """Of each input, whether what the shared model `found` does not depend on rounding."""
    others = [nudged.generate_ids(inputs, **options) for nudged in nudged_text2text()]
    return [
        all(np.array_equal(other.ids[i], found.ids[i]) for other in others)
        for i in range(len(inputs))
    ]
