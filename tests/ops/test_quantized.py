"""Quantized models: how near they are, and that they are saved and loaded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import t5jax
from t5jax.cli import main
from t5jax.model.parameters import abstract_params, for_serving, quantize, quantize_leaf
from t5jax.model.t5.fusion import serving_layout
from t5jax.ops import quantized, quantized_products
from t5jax.ops.int8 import LARGE, int8_products
from t5jax.ops.quantized import (
    Int4,
    Int8,
    Quantized,
    Scheme,
)
from t5jax.ops.quantized_products import MOST_ROWS, multiply, multiply_floats
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary
from tests.support.models import TINY, lively_params, random_ids, tiny_text2text


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 2), st.booleans())
def test_a_kernel_of_eight_bits_is_the_nearest_there_is(seed, contracted, zero):
    rng = np.random.default_rng(seed)
    kernel = (rng.normal(size=(5, 3, 8)) * rng.lognormal(size=(5, 1, 1), sigma=3)).astype("f")
    kernel[0] *= not zero
    for xp in (np, jnp):
        small = Int8.of(kernel, contracted, xp)
        assert small.shape == kernel.shape
        assert small.scale.shape == kernel.shape[: 3 - contracted]
        step = np.reshape(small.scale, (*small.scale.shape, *[1] * contracted))
        assert (np.abs(small.expand() - kernel) <= step * 0.50001).all()
        largest = np.abs(small.digits).max(axis=tuple(range(3 - contracted, 3)))
        assert set(np.unique(largest)) <= {0, 127}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 2), st.sampled_from([2, 8, 48, 128]))
def test_a_kernel_of_four_bits_is_as_near_as_its_groups_allow(seed, contracted, width):
    rng = np.random.default_rng(seed)
    size = (3, 2, width)
    kernel = (rng.normal(size=size) * rng.lognormal(size=size)).astype("f")
    kernel[0, :, : width // 2] = 0
    group = {2: 1, 8: 4, 48: 8, 128: 32}[width]
    small = Int4.of(kernel, contracted, np)
    same = Int4.of(jnp.asarray(kernel), contracted, jnp)
    jax.tree.map(np.testing.assert_array_equal, small, same)
    assert small.shape == kernel.shape and small.digits.nbytes == kernel.size // 2
    assert small.factors.nbytes == kernel.size // group // 2
    groups = np.abs(kernel).reshape(3, 2, width // group, group).max(-1)
    whole = np.abs(kernel).max(axis=tuple(range(3 - contracted, 3)), keepdims=True)
    # A group's unit is the least that reaches its largest weight, in sixteenths of the output's, or
    # the next where rounding decides.
    steps = np.clip(np.ceil(groups / np.maximum(whole, 1e-30) * 16 + 1e-4), 1, 16)
    unit = np.repeat(steps * whole / (16 * 7), group, axis=-1)
    assert (np.abs(np.asarray(small.expand()) - kernel) <= 0.5001 * unit).all()


def test_an_odd_dimension_has_no_four_bits():
    with pytest.raises(ValueError, match="7 of them are odd"):
        Int4.of(np.ones((3, 7), "f"))
    with pytest.raises(ValueError, match="mlp/wo: int4"):
        row = serving_layout(TINY)["mlp/wo"]
        quantize_leaf(row, "encoder/layers_0/mlp/wo", np.ones((3, 7), "f"), Scheme("int4"), np)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9, 40])
@pytest.mark.parametrize("outputs", [2048, 2049, 2053])  # which eight divides, three, nothing
def test_products_of_int8_are_exact(rows, outputs):
    rng = np.random.default_rng(rows)
    kernel = rng.integers(-127, 128, (outputs, 520), np.int8)
    assert kernel.size >= LARGE
    x = rng.integers(-127, 128, (rows, 520), np.int8)
    expected = x.astype(np.int64) @ kernel.T.astype(np.int64)
    np.testing.assert_array_equal(jax.jit(int8_products)(x, kernel), expected)


@pytest.mark.parametrize("make", [Int8.of, Int4.of])
@pytest.mark.parametrize("rows", [1, 2, 16])
def test_a_product_is_that_of_the_rounded_kernel(rows, make, monkeypatch):
    monkeypatch.setattr(quantized, "BLOCK", 64 * 7)  # so that four bits take six blocks
    rng = np.random.default_rng(rows)
    w = make(jnp.asarray(rng.normal(size=(40, 64)), jnp.float32))
    x = rng.normal(size=(rows, 64)).astype("f")
    kernel = np.asarray(w.expand(), np.float64)
    # A function of its own: a constant is no part of what tells compiled programs apart.
    y = jax.jit(lambda x, w: multiply(x, w, jnp.float32))(x, w)
    # Half a unit in every entry of x; of one row, half a unit of a second digit.
    unit = np.abs(x).max(axis=1, keepdims=True) / 127 / (254 if rows == 1 else 1)
    bound = 0.5 * unit * np.abs(kernel).sum(axis=1) + 1e-5
    exact = np.asarray(x, np.float64) @ kernel.T
    assert (np.abs(y - exact) <= bound).all()
    # As accelerators do it, x stays what it is.
    np.testing.assert_allclose(multiply_floats(x, w) * w.scale, exact, atol=1e-4)


@pytest.mark.parametrize("integers", [True, False])
def test_many_rows_are_integers_where_the_cpu_multiplies_them(integers, monkeypatch):
    monkeypatch.setattr(quantized_products, "multiplies_integers", lambda: integers)
    rng = np.random.default_rng(0)
    w = Int8.of(jnp.asarray(rng.normal(size=(40, 64)), jnp.float32))
    for rows, rounded in ((MOST_ROWS, True), (MOST_ROWS + 1, integers)):
        x = jnp.asarray(rng.normal(size=(rows, 64)), jnp.float32)
        program = jax.jit(lambda x, w: multiply(x, w, jnp.float32))  # traced anew
        exact = multiply_floats(x, w) * w.scale
        assert (np.abs(program(x, w) - exact).max() > 1e-3) == rounded


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_a_product_does_not_write_the_matrix_down(kind):
    outputs, inputs = 8192, 512
    w = jax.eval_shape(kind.of, jax.ShapeDtypeStruct((outputs, inputs), jnp.float32))
    x = jax.ShapeDtypeStruct((16, inputs), jnp.float32)
    compiled = jax.jit(lambda x, w: multiply(x, w, jnp.float32)).lower(x, w).compile()
    # What is there beside arguments and result: a block in eight bits, and the products.
    products = 16 * outputs * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * products + outputs * inputs / 4


CONFIGS = {
    "tied": TINY.replace(tie_word_embeddings=True, scale_decoder_outputs=True),
    "own head, gated": TINY.replace(feed_forward_proj="gated-gelu"),
}


@pytest.mark.parametrize("name", [pytest.param("tied", marks=pytest.mark.slow), "own head, gated"])
def test_logits_are_near_those_in_float32(name):
    config, params = CONFIGS[name], lively_params(CONFIGS[name])
    plain = Text2Text(config, params, ByteVocabulary())
    tree = jax.jit(lambda p: quantize(config, for_serving(config, p), Scheme("int8")))(params)
    small = Text2Text(config, tree, ByteVocabulary())
    assert small.quantization == Scheme("int8")
    assert ("token_embedder" in str(_quantized_paths(small))) == config.tie_word_embeddings
    inputs, prefix = random_ids(0, 4, 9), random_ids(1, 4, 6)
    expected = np.asarray(plain.logits(inputs, prefix))
    error = np.asarray(small.logits(inputs, prefix)) - expected
    # Rounding kernels and activations costs a few percent of the logits' spread in so small a
    # model; the kernels alone, which `params` expands, about half of that.
    assert error.std() < 0.05 * expected.std()
    rounded = Text2Text(config, small.params, ByteVocabulary())
    kernels = np.asarray(rounded.logits(inputs, prefix)) - expected
    assert 0 < kernels.std() < error.std()
    # Cached decoding is the same mathematics, but for the rounding of other numbers of rows.
    result = small.generate_ids(inputs[:1], max_new_tokens=8)
    np.testing.assert_allclose(
        result.scores, small.score_ids(inputs[:1], result.ids[:, 0])[:, None], atol=0.3
    )


def _quantized_paths(t5: Text2Text) -> list:
    leaves = jax.tree.leaves_with_path(
        t5.decoder.params, is_leaf=lambda x: isinstance(x, Quantized)
    )
    return [path for path, leaf in leaves if isinstance(leaf, Quantized)]


@pytest.mark.parametrize("kind, head", [("int8", True), ("int4", True), ("int4", False)])
def test_a_quantized_model_is_saved_and_loaded_bit_for_bit(kind, head, tmp_path, capsys):
    tiny_text2text().save(tmp_path / "float")
    tiny_text2text().save(tmp_path / "hf", format="hf")
    small = t5jax.load(tmp_path / "float", quantize=kind, quantize_head=head)
    assert small.quantization == Scheme(kind, head)
    small.save(tmp_path / "small")
    main(["convert", str(tmp_path / "hf"), str(tmp_path / "converted"), "--format", "t5jax",
          "--quantize", kind, *([] if head else ["--float_head"])])  # fmt: skip
    from_hf = t5jax.load(tmp_path / "hf", vocabulary="bytes", quantize=kind, quantize_head=head)
    for other in (t5jax.load(tmp_path / "small"), t5jax.load(tmp_path / "converted"), from_hf):
        assert _quantized_paths(other) == _quantized_paths(small)
        jax.tree.map(np.testing.assert_array_equal, other.decoder.params, small.decoder.params)
    # Wide, so that the files' sizes are those of kernels: what describes arrays varies a little.
    config = TINY.replace(d_ff=2048)
    Text2Text(config, lively_params(config), ByteVocabulary()).save(tmp_path / "wide")
    t5jax.load(tmp_path / "wide", quantize=kind, quantize_head=head).save(tmp_path / "wide-small")
    sizes = [
        sum(f.stat().st_size for f in (tmp_path / name / "checkpoints").rglob("*") if f.is_file())
        for name in ("wide", "wide-small")
    ]
    assert sizes[1] < (0.75 if kind == "int8" else 1) * sizes[0]
    other = "int4" if kind == "int8" else "int8"
    assert t5jax.load(tmp_path / "small", quantize=kind, quantize_head=head).quantization == (
        Scheme(kind, head)
    )
    for call in (
        lambda: t5jax.load(tmp_path / "small", quantize=other, quantize_head=head),
        lambda: t5jax.load(tmp_path / "small", quantize=kind, quantize_head=not head),
        lambda: small.save(tmp_path / "no", format="hf"),
        lambda: t5jax.formats.detect.open_checkpoint(tmp_path / "small").read("training"),
        lambda: t5jax.load(tmp_path / "float", quantize="int3"),
    ):
        with pytest.raises(ValueError, match="quantize"):
            call()
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("kind, share", [("int8", 1 / 4), ("int4", 1 / 8 + 1 / 256)])
def test_bytes_are_a_quarter_or_an_eighth(kind, share):
    for name in ("t5_base", "t5_1_1_xxl", "mt5_xl"):
        config = t5jax.VARIANTS[name]
        tree = abstract_params(config, serving=True)
        small = jax.eval_shape(functools.partial(quantize, config, scheme=Scheme(kind)), tree)
        full, less = (
            sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t)) for t in (tree, small)
        )
        looked_up = 0 if config.tie_word_embeddings else config.vocab_size * config.d_model * 4
        assert (less - looked_up) / (full - looked_up) == pytest.approx(share, abs=0.002)
