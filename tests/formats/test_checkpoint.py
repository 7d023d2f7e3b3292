"""Every kind of checkpoint is read in every form, and gives the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.formats.checkpoint import About, Checkpoint, InMemory, tensors_of
from t5jax.formats.detect import open_checkpoint, write_checkpoint
from t5jax.model.parameters import for_serving, quantize
from t5jax.model.t5.config import T5Config
from t5jax.ops.quantized import Scheme, map_kernels
from tests.support.models import lively_params

CONFIG = T5Config(
    vocab_size=128,
    d_model=32,
    d_kv=8,
    d_ff=64,
    num_heads=4,
    num_layers=2,
    num_decoder_layers=2,
    scale_decoder_outputs=False,
)
INT8 = Scheme("int8")


@pytest.fixture(scope="module")
def params() -> dict:
    return lively_params(CONFIG)


@pytest.fixture(scope="module", params=["memory", "t5jax", "hf", "t5x"])
def checkpoint(request, params, tmp_path_factory) -> Checkpoint:
    serving = for_serving(CONFIG, params)
    memory = InMemory(About(CONFIG), tensors_of(CONFIG, serving), serving)
    if request.param == "memory":
        return memory
    folder = tmp_path_factory.mktemp("checkpoint") / request.param
    write_checkpoint(folder, memory, request.param)
    return open_checkpoint(folder, feed_forward_proj=CONFIG.feed_forward_proj)


def assert_same(found, expected) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_forms_hold_the_same_parameters(checkpoint, params):
    serving = for_serving(CONFIG, params)
    assert_same(checkpoint.read("training"), params)
    assert_same(checkpoint.read("serving"), serving)
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), serving)
    assert_same(checkpoint.read("serving", jnp.bfloat16), halves)
    # Kernels are quantized as they are stored, then the rest is cast.
    expected = map_kernels(lambda x: x.astype(jnp.bfloat16), quantize(CONFIG, serving, INT8))
    assert_same(checkpoint.read(INT8, jnp.bfloat16), expected)


def test_a_quantized_checkpoint_is_served_as_it_is_and_nothing_else(checkpoint, tmp_path):
    expected = checkpoint.read(INT8, np.float32)
    write_checkpoint(tmp_path / "stored", checkpoint, "t5jax", quantize=INT8)
    stored = open_checkpoint(tmp_path / "stored")
    for quantized in (stored, InMemory(stored.about, {}, expected)):
        assert not quantized.tensors
        assert_same(quantized.read("serving"), expected)
        assert_same(quantized.read(INT8), expected)
        with pytest.raises(ValueError, match="neither trained nor converted"):
            quantized.read("training")
        with pytest.raises(ValueError, match="is quantized already, as"):
            quantized.read(Scheme("int4"))
        with pytest.raises(ValueError, match="can be written in the format 't5jax', not 'hf'"):
            write_checkpoint(tmp_path / "other", quantized, "hf")
