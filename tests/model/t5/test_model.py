"""What must hold of the network, whatever its weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.model.parameters import (
    abstract_params,
    count_parameters,
    for_serving,
    from_serving,
    init_params,
    logical_axes,
    stack,
    unstack,
)
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.network import T5
from t5jax.model.t5.positions import relative_position_bucket
from t5jax.model.t5.variants import VARIANTS
from tests.support.models import (
    TINY,
    apply,
    lively_params,
    random_ids,
    serve,
    serving,
    serving_params,
    teacher_forced,
)

TIED = TINY.replace(feed_forward_proj="relu", tie_word_embeddings=True, scale_decoder_outputs=True)

# Published counts: Raffel et al. 2020 and the model cards of the checkpoints.
PUBLISHED = {
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "flan_t5_base": 247_577_856,
    "mt5_small": 300_176_768,
    "mt5_base": 582_401_280,
    "mt5_large": 1_229_581_312,
    "mt5_xl": 3_742_619_648,
    "byt5_small": 299_637_760,
    "byt5_base": 581_653_248,
    # T5 1.1's, and a norm of global tokens a layer and their table of biases.
    "longt5_local_base": 247_577_856,
    "longt5_tglobal_base": 247_577_856 + 12 * 768 + 32 * 12,
    "longt5_local_large": 783_150_080,
    "longt5_tglobal_large": 783_150_080 + 24 * 1024 + 32 * 16,
    "longt5_tglobal_xl": 2_849_757_184 + 24 * 2048 + 32 * 32,
    # mT5's with a larger vocabulary, and a table of biases in every layer.
    "umt5_small": 300_176_768 + 2 * (256_384 - 250_112) * 512 + 14 * 32 * 6,
    "umt5_base": 582_401_280 + 2 * (256_384 - 250_112) * 768 + 22 * 32 * 12,
    "umt5_xl": 3_742_619_648 + 2 * (256_384 - 250_112) * 2048 + 46 * 32 * 32,
}
# In millions or billions as papers and model cards round them: arXiv:2010.11934 table 2 (mT5),
# arXiv:2105.13626 table 1 (ByT5), arXiv:2205.05131 (UL2), arXiv:2309.04662 appendix A.8 (MADLAD).
ROUNDED = {
    "mt5_xxl": 13e9,
    "byt5_large": 1.23e9,
    "byt5_xl": 3.74e9,
    "byt5_xxl": 12.9e9,
    "t5_1_1_lm100k_xl": 2.85e9,
    "flan_t5_xxl": 11.1e9,
    "umt5_xxl": 13e9,
    "ul2": 19.5e9,
    "flan_ul2": 19.5e9,
    "madlad400_3b": 2.94e9,
    "madlad400_7b": 8.3e9,
    "madlad400_10b": 10.7e9,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    assert count_parameters(abstract_params(VARIANTS[name])) == PUBLISHED[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_parameter_count_rounds_to_the_published_one(name):
    assert count_parameters(abstract_params(VARIANTS[name])) == pytest.approx(
        ROUNDED[name], rel=0.008
    )


@pytest.mark.parametrize(
    ("relative_bias", "rows"), [("shared", 3), ("per_layer", 3), ("per_layer", 1)]
)
def test_incremental_decode_matches_teacher_forcing(relative_bias, rows):
    config = TINY.replace(relative_bias=relative_bias)
    params = lively_params(config)
    inputs = random_ids(0, rows, 9)
    inputs[1:2, 4:] = 0
    prefix = random_ids(1, rows, 40)
    prefix[:, 0] = 0
    expected = apply(config)(params, inputs, prefix)
    params, mask = serving_params(config), inputs != 0
    hidden = serve(config, "encode")(params, inputs, mask.astype(np.int32))
    cross = serve(config, "cross_kv")(params, hidden)
    cache = serving(config).init_cache(rows, 40)
    step, logits = serve(config, "decode_hidden"), serve(config, "logits")
    for i in range(40):
        x, cache = step(params, prefix[:, i], cross, mask, cache, jnp.int32(i))
        np.testing.assert_allclose(logits(params, x), expected[:, i], atol=2e-5)


@pytest.mark.parametrize("config", [TINY, TIED], ids=["gated", "tied"])
def test_the_serving_layout_changes_no_logit_and_turns_back_exactly(config):
    params = lively_params(config)
    inputs, prefix = random_ids(0, 2, 9), random_ids(1, 2, 5)
    np.testing.assert_allclose(
        apply(config)(params, inputs, prefix),
        teacher_forced(config, inputs, prefix),
        atol=2e-5,
    )
    jax.tree.map(
        np.testing.assert_array_equal, from_serving(config, for_serving(config, params)), params
    )
    jax.tree.map(np.testing.assert_array_equal, stack(unstack(params)), params)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        TIED,
        TINY.replace(relative_bias="per_layer"),
        TINY.replace(num_decoder_layers=0),
        TINY.replace(encoder_attention_type="local"),
        TINY.replace(encoder_attention_type="transient-global"),
    ],
    ids=["gated", "tied", "umt5", "encoder", "local", "global"],
)
def test_shapes_and_axes_for_inference_are_those_of_the_converted_tree(config):
    converted = jax.eval_shape(functools.partial(for_serving, config), abstract_params(config))
    found = abstract_params(config, serving=True)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), converted
    )
    names = jax.tree.map(lambda spec: len(spec), logical_axes(config, serving=True))
    assert names == jax.tree.map(lambda x: x.ndim, converted)


@pytest.mark.parametrize(
    ("remat", "scan"),
    [
        ("dots", True),
        ("none", False),
        pytest.param("full", True, marks=pytest.mark.slow),
        pytest.param("dots", False, marks=pytest.mark.slow),
    ],
)
def test_rematerialisation_and_layers_apart_change_no_gradient(remat, scan):
    params = lively_params(TINY)
    inputs, prefix = random_ids(0, 2, 9), random_ids(1, 2, 5)
    key = jax.random.key(0, impl="rbg")
    config = TINY.replace(dropout=0.3)

    def gradient(remat, scan):
        model = T5(config, remat=remat, scan=scan)

        def loss(params):
            params = params if scan else unstack(params)
            return model.apply({"params": params}, inputs, prefix, dropout_key=key).std()

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
        gradient("none", True),
        gradient(remat, scan),
    )


def test_decoder_sees_no_later_token_and_no_padding():
    # Through gradients: what an output does not depend on has an exactly zero derivative.
    params = lively_params(TINY)
    hidden = jax.random.normal(jax.random.key(0), (1, 6, TINY.d_model))
    segments = jnp.array([[1, 1, 1, 1, 0, 0]])
    prefix = jnp.asarray(random_ids(1, 1, 7))
    model = T5(TINY)

    def third(embedding, hidden):
        tree = {**params, "token_embedder": {"embedding": embedding}}
        return model.apply({"params": tree}, hidden, segments, prefix, method="decode")[0, 2].sum()

    by_embedding, by_hidden = jax.jit(jax.grad(third, (0, 1)))(
        params["token_embedder"]["embedding"], hidden
    )
    seen = np.abs(by_embedding).sum(axis=1)[prefix[0]] > 0
    assert seen.tolist() == [True] * 3 + [False] * 4
    assert (np.abs(by_hidden[0]).sum(axis=1) > 0).tolist() == [True] * 4 + [False] * 2


def test_packed_examples_do_not_see_each_other():
    params = lively_params(TINY)
    a, b = (random_ids(0, 1, 5), random_ids(1, 1, 4)), (random_ids(2, 1, 7), random_ids(3, 1, 6))
    inputs = np.zeros((1, 16), np.int32)
    segments = np.zeros((1, 16), np.int32)
    prefix = np.zeros((1, 12), np.int32)
    own = np.zeros((1, 12), np.int32)
    inputs[0, :5], segments[0, :5], prefix[0, :4], own[0, :4] = a[0], 1, a[1], 1
    inputs[0, 5:12], segments[0, 5:12], prefix[0, 4:10], own[0, 4:10] = b[0], 2, b[1], 2
    packed = apply(TINY)(params, inputs, prefix, segments, own)
    np.testing.assert_allclose(packed[:, :4], apply(TINY)(params, *a), atol=2e-5)
    np.testing.assert_allclose(packed[:, 4:10], apply(TINY)(params, *b), atol=2e-5)


def test_hidden_states_are_zero_at_padding():
    inputs = random_ids(0, 2, 6)
    inputs[0, 3:] = 0
    hidden = apply(TINY, "encode")(lively_params(TINY), inputs)
    assert not hidden[0, 3:].any()
    assert hidden[0, :3].any(axis=-1).all()


def test_relative_buckets_are_those_of_a_float64_formula():
    distances = np.arange(-400, 401)
    for bidirectional in (True, False):
        ours = relative_position_bucket(
            jnp.asarray(distances), bidirectional=bidirectional, num_buckets=32, max_distance=128
        )
        buckets = 16 if bidirectional else 32
        exact = buckets // 2
        expected = []
        for d in distances:
            side = buckets if bidirectional and d > 0 else 0
            n = abs(d) if bidirectional else max(-d, 0)
            if n >= exact:
                far = np.log(n / exact) / np.log(128 / exact) * (buckets - exact)
                # At exact powers float64's rounding decides; 1e-9 puts it on the formula's side.
                n = min(exact + int(far + 1e-9), buckets - 1)
            expected.append(side + n)
        assert np.mean(np.asarray(ours) == expected) == 1.0


def test_initial_parameters_have_the_published_standard_deviations():
    config = T5Config(vocab_size=512, d_model=256, d_kv=32, d_ff=320, num_heads=4)
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    attention = params["encoder"]["layers"]["self_attention"]
    expected = {
        "query": (256 * 32) ** -0.5,
        "key": 256**-0.5,
        "value": 256**-0.5,
        "out": (4 * 32) ** -0.5,
    }
    for name, std in expected.items():
        assert np.std(attention[name]) == pytest.approx(std, rel=0.02)
    mlp = params["decoder"]["layers"]["mlp"]
    assert np.std(mlp["wi_0"]) == pytest.approx(256**-0.5, rel=0.02)
    assert np.std(mlp["wo"]) == pytest.approx(320**-0.5, rel=0.02)
    assert np.std(params["token_embedder"]["embedding"]) == pytest.approx(1, rel=0.02)
    assert np.std(params["head"]["kernel"]) == pytest.approx(256**-0.5, rel=0.02)
    # Uniform with fan-average: variance 1 / mean(heads, buckets).
    table = params["encoder"]["relpos_bias"]["rel_embedding"]
    assert np.abs(table).max() <= (3 / 18) ** 0.5
    assert np.std(table) == pytest.approx((1 / 18) ** 0.5, rel=0.2)


def test_every_parameter_names_its_axes():
    axes = logical_axes(TINY)
    jax.tree.map(
        lambda p, spec: pytest.fail(str(spec)) if len(p.shape) != len(spec) else 0,
        abstract_params(TINY),
        axes,
    )
    assert tuple(axes["encoder"]["layers"]["self_attention"]["query"]) == (
        "layers", "embed", "heads", "kv",
    )  # fmt: skip


def test_bfloat16_computation_keeps_logits_in_float32_and_close():
    params = lively_params(TINY)
    inputs, prefix = random_ids(0, 2, 9), random_ids(1, 2, 5)
    exact = apply(TINY)(params, inputs, prefix)
    model = T5(TINY, dtype=jnp.bfloat16)
    low = jax.jit(lambda p: model.apply({"params": p}, inputs, prefix))(params)
    assert low.dtype == jnp.float32
    assert 1e-4 < np.abs(low - exact).max() < 0.05 * np.abs(exact).max()


def test_dropout_needs_a_key_and_follows_it():
    config = TINY.replace(dropout=0.5)
    params = lively_params(config)
    inputs, prefix = random_ids(0, 2, 9), random_ids(1, 2, 5)
    run = apply(config)
    np.testing.assert_array_equal(run(params, inputs, prefix), apply(TINY)(params, inputs, prefix))
    one, two = (
        run(params, inputs, prefix, dropout_key=jax.random.key(i, impl="rbg")) for i in (0, 1)
    )
    assert np.abs(one - two).max() > 0.1


def test_config_refuses_impossible_values():
    for bad in ({"d_model": 0}, {"dropout": 1.0}, {"relative_attention_num_buckets": 3}):
        (name,) = bad
        with pytest.raises(ValueError, match=name):
            T5Config(**bad)
