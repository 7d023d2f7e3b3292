"""LongT5's encoder attention: what must hold of it, whatever the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.model.parameters import abstract_params, for_serving, from_serving, unstack
from t5jax.model.t5 import long_attention
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.flops import step_flops
from t5jax.model.t5.long_attention import find_places
from t5jax.model.t5.network import T5
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary
from tests.support.models import (
    TINY,
    apply,
    lively_params,
    random_ids,
    serving,
    teacher_forced,
)

LOCAL = TINY.replace(encoder_attention_type="local", local_radius=7)
GLOBAL = TINY.replace(
    encoder_attention_type="transient-global", local_radius=7, global_block_size=4
)
KINDS = pytest.mark.parametrize("config", [LOCAL, GLOBAL], ids=["local", "transient-global"])


def ragged(lengths, width):
    ids = random_ids(0, len(lengths), width)
    ids[np.arange(width) >= np.array(lengths)[:, None]] = 0
    return ids


@KINDS
def test_the_serving_layout_changes_no_logit_and_turns_back_exactly(config):
    params = lively_params(config)
    inputs, prefix = ragged([61, 20, 3], 61), random_ids(1, 3, 5)
    np.testing.assert_allclose(
        apply(config)(params, inputs, prefix),
        teacher_forced(config, inputs, prefix),
        atol=2e-5,
    )
    jax.tree.map(
        np.testing.assert_array_equal, from_serving(config, for_serving(config, params)), params
    )


@KINDS
def test_a_batch_gives_what_each_row_gives_alone(config):
    params = lively_params(config)
    lengths = [61, 3, 4, 7, 8, 9, 32, 33]
    ids = ragged(lengths, 70)
    together = apply(config, "encode")(params, ids)
    for row, length, hidden in zip(ids, lengths, together, strict=True):
        alone = apply(config, "encode")(params, row[None, :length])
        np.testing.assert_allclose(hidden[:length], alone[0], atol=2e-5)
        assert not hidden[length:].any()


@KINDS
def test_packed_segments_give_what_each_gives_alone(config):
    # Lengths that leave no segment's blocks in line with the row's, and some without global tokens.
    lengths = [5, 3, 18, 1, 26, 2, 11]
    params = lively_params(config)
    ids = random_ids(0, 1, sum(lengths) + 3)
    segments = np.zeros_like(ids)
    segments[0, : sum(lengths)] = np.repeat(np.arange(1, 8), lengths)
    ids[segments == 0] = 0
    packed = apply(config, "encode")(params, ids, segments)[0]
    for number in range(1, 8):
        own = segments[0] == number
        alone = apply(config, "encode")(params, ids[:, own])
        np.testing.assert_allclose(packed[own], alone[0], atol=2e-5)


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_places_are_those_that_counting_gives(size):
    rng = np.random.default_rng(size)
    find = jax.jit(find_places, static_argnums=1)
    for _ in range(20):
        lengths = rng.integers(1, 3 * size + 2, 4)
        segments = np.zeros(12 * size + 7, np.int32)
        segments[: lengths.sum()] = np.repeat([3, 1, 4, 2], lengths)
        room = len(segments) // size
        blocks, owners = np.full(len(segments), room), np.zeros(room, np.int32)
        position = used = 0
        for number, length in zip([3, 1, 4, 2], lengths, strict=True):
            full = length // size
            for i in range(length if full else 0):
                blocks[position + i] = used + min(i // size, full - 1)
            owners[used : used + full] = number
            position, used = position + length, used + full
        places = find(segments[None], size)
        np.testing.assert_array_equal(places.blocks[0], blocks)
        np.testing.assert_array_equal(places.segments[0], owners)


def influence(config, length, at):
    """Which inputs the hidden state at position `at` depends on, by its gradient."""
    params = lively_params(config)
    # Every position has an id of its own, so that gradients of the table are those of positions.
    ids = jnp.arange(3, 3 + length)[None]

    def state(table):
        tree = {**params, "token_embedder": {"embedding": table}}
        return T5(config).apply({"params": tree}, ids, method="encode")[0, at].sum()

    gradient = jax.jit(jax.grad(state))(params["token_embedder"]["embedding"])
    return np.flatnonzero(np.abs(gradient[3 : 3 + length]).sum(axis=1))


def test_an_input_shorter_than_a_block_has_no_global_tokens():
    config = GLOBAL.replace(global_block_size=16)
    params, ids, prefix = lively_params(config), random_ids(3, 2, 9), random_ids(4, 2, 5)
    expected = apply(config)(params, ids, prefix)
    np.testing.assert_allclose(teacher_forced(config, ids, prefix), expected, atol=2e-5)
    t5 = Text2Text(config, params, ByteVocabulary())
    np.testing.assert_allclose(t5.logits(ids, prefix), expected, atol=2e-5)


@pytest.mark.parametrize("at", [0, 50, 99])
def test_local_attention_reaches_its_radius_in_each_layer_and_no_further(at):
    config = LOCAL.replace(num_layers=2, local_radius=5)
    reached = influence(config, 100, at)
    assert reached.tolist() == list(range(max(0, at - 10), min(99, at + 10) + 1))


def test_global_tokens_let_every_token_reach_all():
    assert len(influence(GLOBAL.replace(num_layers=1), 100, 50)) == 100


def test_local_attention_of_a_radius_beyond_the_input_is_full_attention():
    config = LOCAL.replace(local_radius=40)
    ids = ragged([40, 13], 40)
    params = lively_params(config)
    np.testing.assert_allclose(
        apply(config, "encode")(params, ids), apply(TINY, "encode")(params, ids), atol=2e-5
    )


@KINDS
@pytest.mark.parametrize("logits", [1, 5000])
def test_taking_turns_changes_neither_states_nor_gradients(config, logits, monkeypatch):
    params = lively_params(config)
    ids = ragged([61, 30], 61)

    def both():
        model = T5(config)
        loss = lambda p: (model.apply({"params": p}, ids, method="encode") ** 3).mean()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    expected = both()
    monkeypatch.setattr(long_attention, "LOGITS_AT_ONCE", logits)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), expected, both()
    )


def test_rematerialisation_and_layers_apart_change_no_gradient(monkeypatch):
    monkeypatch.setattr(long_attention, "LOGITS_AT_ONCE", 2000)
    config = GLOBAL.replace(dropout=0.3, num_layers=2)
    params = lively_params(config)
    inputs = ragged([61, 30], 61)
    key = jax.random.key(0, impl="rbg")

    def gradient(remat, scan):
        def loss(params):
            params = params if scan else unstack(params)
            model = T5(config, remat=remat, scan=scan)
            return model.apply({"params": params}, inputs, dropout_key=key, method="encode").std()

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
        gradient("none", True),
        gradient("full", False),
    )


@KINDS
def test_dropout_needs_a_key(config):
    inputs, prefix = ragged([61, 30], 61), random_ids(1, 2, 5)
    params, run = lively_params(config), apply(config.replace(dropout=0.5))
    still = run(params, inputs, prefix)
    np.testing.assert_array_equal(still, apply(config)(params, inputs, prefix))
    stirred = run(params, inputs, prefix, dropout_key=jax.random.key(1, impl="rbg"))
    assert np.abs(still - stirred).max() > 0.1


@KINDS
def test_bfloat16_stays_close(config):
    params, ids = lively_params(config), ragged([61, 30], 61)
    exact = apply(config, "encode")(params, ids)
    model = T5(config, dtype=jnp.bfloat16)
    low = jax.jit(lambda p: model.apply({"params": p}, ids, method="encode"))(params)
    assert low.dtype == jnp.bfloat16
    assert np.sqrt(np.mean((low - exact) ** 2)) < 0.03 * np.std(exact)


def temporary_bytes(config, length, training):
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    model = T5(config, remat="full")

    def loss(params, ids):
        return model.apply({"params": params}, ids, method="encode").astype(jnp.float32).sum()

    function = jax.grad(loss) if training else serving(config).encode
    segments = () if training else (ids,)
    params = abstract_params(config, serving=not training)
    compiled = jax.jit(function).lower(params, ids, *segments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["full", "local", "transient-global"])
def test_memory_grows_with_the_length_and_not_its_square(kind, training):
    config = TINY.replace(encoder_attention_type=kind)
    # The turns' own logits, which do not grow, are a small part here.
    sizes = [temporary_bytes(config, 2**power, training) for power in (15, 16)]
    assert 1.5 < sizes[1] / sizes[0] <= 2.2


@KINDS
def test_generation_in_a_batch_is_what_each_input_gives_alone(config):
    t5 = Text2Text(config, lively_params(config), ByteVocabulary())
    texts = ["a", "some words and more of them", "b" * 90]
    together = t5.generate(texts, max_new_tokens=8)
    assert together == [t5.generate(text, max_new_tokens=8) for text in texts]


def test_flops_of_long_inputs_grow_with_the_length():
    def flops(config, inputs):
        return step_flops(config.replace(num_decoder_layers=1), 1, inputs, 1)

    assert flops(TINY, 8192) > 3 * flops(TINY, 4096)
    assert flops(LOCAL, 8192) == pytest.approx(2 * flops(LOCAL, 4096), rel=1e-2)
    assert flops(LOCAL, 4096) < flops(GLOBAL, 4096) < flops(TINY, 4096)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder_attention_type": "sparse"}, "encoder_attention_type='sparse'"),
        ({"local_radius": 0}, "local_radius=0"),
        ({"global_block_size": 0}, "global_block_size=0"),
        ({"encoder_attention_type": "local", "relative_bias": "per_layer"}, "'shared'"),
    ],
)
def test_impossible_values_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        T5Config(**changes)
