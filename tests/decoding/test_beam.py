"""Beam search: against transformers, against a plain reference, and in any batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from t5jax.decoding import beam
from t5jax.decoding.controls import Controls, SpecialIds
from t5jax.decoding.loop import BoundNetwork
from t5jax.decoding.rules import Search, T5XRule
from t5jax.decoding.samplers import Greedy
from t5jax.engine import programs
from t5jax.ops.selection import largest, likeliest
from tests.support.models import (
    TINY,
    apply,
    lively_params,
    random_ids,
    serve,
    serving,
    serving_params,
    settled,
    shared_text2text,
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"num_beams": 4}, marks=pytest.mark.slow),
        {"num_beams": 5, "num_return_sequences": 3},
    ],
    ids=str,
)
def test_ids_and_scores_equal_transformers(options):
    from tests.support.generation import RAGGED, compare

    lengths = compare(RAGGED, **options)
    assert len(set(lengths.ravel().tolist())) > 5  # some end early, each in its own place


@pytest.mark.parametrize(
    ("early_stopping", "length_penalty", "models"),
    [(True, 1.0, 4), (False, -1.0, 4), ("never", 2.0, 4), ("never", 0.0, 4)]
    + [
        pytest.param(early_stopping, length_penalty, 20, marks=pytest.mark.slow)
        for early_stopping in (True, False, "never")
        for length_penalty in (1.0, 2.0, 0.0, -1.0)
    ],
)
def test_every_way_to_stop_equals_transformers(early_stopping, length_penalty, models):
    from tests.support.generation import RAGGED, compare

    compare(
        RAGGED,
        models=models,
        num_beams=4,
        num_return_sequences=4,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True, "scale_decoder_outputs": True},
        {"feed_forward_proj": "relu"},
        {"d_model": 24, "num_heads": 3, "num_layers": 1, "num_decoder_layers": 1},
        {"vocab_size": 1024, "num_heads": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("inputs", ["ragged", "alone"])
def test_other_shapes_equal_transformers(changes, inputs):
    from tests.support.generation import CONFIG, RAGGED, compare

    inputs = RAGGED if inputs == "ragged" else RAGGED[:1]
    config = CONFIG.replace(**changes)
    for options in ({"num_beams": 4}, {"num_beams": 3, "eos_token_id": [1, 7, 9, 200]}):
        compare(inputs, config=config, max_new_tokens=20, **options)


def test_several_ends_equal_transformers():
    from tests.support.generation import RAGGED, compare

    compare(RAGGED, models=8, num_beams=4, eos_token_id=[1, 7, 9, 200], num_return_sequences=4)


# One set of structures for several tests: they share the compiled programs.
THREE = {
    "max_new_tokens": 10,
    "num_beams": 3,
    "num_return_sequences": 3,
    "eos_token_id": [1, *range(300, 340)],
}


@pytest.mark.parametrize("do_sample", [False, pytest.param(True, marks=pytest.mark.slow)])
@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(1, 16), min_size=3, max_size=3), st.integers(0, 9))
def test_a_batch_gives_what_each_input_gives_alone(do_sample, lengths, seed):
    check_rows_alone(lengths, 16, seed, do_sample)


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 9), st.booleans())
def test_a_batch_of_any_size_gives_what_each_input_gives_alone(lengths, seed, do_sample):
    check_rows_alone(lengths, 20, seed, do_sample)


def check_rows_alone(lengths, width, seed, do_sample):
    t5 = shared_text2text()
    inputs = random_ids(seed, len(lengths), width)
    inputs[np.arange(width) >= np.array(lengths)[:, None]] = 0
    options = {**THREE, "do_sample": do_sample, "seed": seed}
    together = t5.generate_ids(inputs, **options)
    certain = settled(together, inputs, **options)
    for i in range(len(inputs)):
        alone = t5.generate_ids(inputs[i : i + 1], **options)
        if certain[i]:
            width = alone.ids.shape[-1]
            np.testing.assert_array_equal(alone.ids[0], together.ids[i, :, :width])
            np.testing.assert_allclose(alone.scores[0], together.scores[i], atol=1e-4)


def test_samples_of_a_beam_search_follow_the_seed():
    t5 = shared_text2text()
    inputs = random_ids(0, 3, 8)
    options = {**THREE, "do_sample": True}
    one, again, other = (t5.generate_ids(inputs, seed=s, **options).ids for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert len({tuple(row) for row in one.reshape(9, -1)}) == 9


# T5X's search on a table of log-probabilities by position and last id.


def t5x_search(log_p, beams, alpha, length, eos):
    """The hypotheses (ids, score) of T5X's beam search from id 0, best first; plain Python."""
    live, pool = [((0,), 0.0)], []
    penalty = lambda n: ((5 + n) / 6) ** alpha  # noqa: E731
    for n in range(1, length + 1):
        grown = [
            ((*ids, i), score + log_p[n - 1, ids[-1], i])
            for ids, score in live
            for i in range(log_p.shape[2])
        ]
        best = sorted(grown, key=lambda h: -h[1])[: 2 * beams]
        pool += [(ids, score / penalty(n)) for ids, score in best if ids[-1] == eos]
        pool = sorted(pool, key=lambda h: -h[1])[:beams]
        live = [h for h in best if h[0][-1] != eos][:beams]
        if len(pool) == beams and pool[-1][1] > live[0][1] / penalty(length + 1):
            break
    return [(ids[1:], score) for ids, score in pool or live]


@functools.partial(jax.jit, static_argnames=("beams", "length"))
def search_table(log_p, alpha, beams, length):
    step = lambda tokens, cache, index, ancestry: (log_p[index, tokens], cache)  # noqa: E731
    controls = Controls(
        SpecialIds(start=0, pad=0, eos=(1,), limit=7, vocab=7),
        jnp.zeros((1, 2), jnp.uint32),
        jnp.int32(length),
        (),
        Greedy(),
        Search(alpha, beams, beams, T5XRule()),
    )
    done = jnp.zeros(1, bool)
    state = beam.begin((), done, controls, length)
    state = beam.decode(state, BoundNetwork(step, lambda x: x), controls, block=1)
    return beam.finish(state, done, controls)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.6, 1.5]), st.floats(-4, 2))
def test_brevity_penalty_searches_and_scores_as_t5x(seed, alpha, likes_end):
    logits = np.random.default_rng(seed).normal(size=(6, 7, 7)) * 1.5
    logits[..., 1] += likes_end
    log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)))
    expected = t5x_search(log_p.astype(np.float64), 3, alpha, 6, 1)
    nudge = np.random.default_rng(seed).normal(0, 1e-4, log_p.shape)
    for sign in (1, -1):  # no choice hangs on rounding
        other = t5x_search(log_p.astype(np.float64) + sign * nudge, 3, alpha, 6, 1)
        assume([ids for ids, _ in other] == [ids for ids, _ in expected])
    result = search_table(log_p, np.float32(alpha), 3, 6)
    got = [
        (tuple(int(i) for i in ids[:n]), float(score))
        for ids, score, n in zip(result.ids, result.scores, result.lengths, strict=True)
        if score > -np.inf
    ]
    assert [ids for ids, _ in got] == [ids for ids, _ in expected]
    np.testing.assert_allclose([s for _, s in got], [s for _, s in expected], atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([1, 8]), st.booleans())
def test_largest_is_top_k_of_all(seed, count, ties):
    check_largest(seed, count, 2, ties)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 10), st.integers(1, 3), st.booleans())
def test_largest_is_top_k_of_any_batch_and_count(seed, count, batch, ties):
    check_largest(seed, count, batch, ties)


def check_largest(seed, count, batch, ties):
    x = np.random.default_rng(seed).normal(size=(batch, 128 * 24)).astype(np.float32)
    x = np.round(x, 1) if ties else x
    for got, expected in zip(largest(x, count), jax.lax.top_k(x, count), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(likeliest(x), np.argmax(x, axis=-1))


@pytest.mark.parametrize(("batch", "last"), [(1, True), (3, True), (3, False)])
def test_no_step_copies_a_cache(batch, last):
    """A beam goes on from another without moving keys or values: no copy has a cache's size."""
    t5, length, beams = shared_text2text(), 96, 4
    decoder, encoded = t5.decoder, t5.encode_ids(random_ids(0, batch, 10))
    request = t5.request({"num_beams": beams, "max_new_tokens": 90}, inputs=batch)
    job = decoder.job(encoded, request, np.arange(batch), batch)
    text = (
        programs.decode.lower(decoder.network, decoder.params, job, room=length, last=last, block=1)
        .compile()
        .as_text()
    )
    rows, heads, width = (2, TINY.num_heads // 2, TINY.d_kv)
    if batch > 1:
        rows, heads = batch, TINY.num_heads
    shapes = (
        f"f32[{rows},{heads},{width},{length * beams}]",
        f"f32[{rows},{heads},{length * beams},{width}]",
    )
    # The loop; what comes last makes the empty caches of all layers from one, and runs it.
    loop, entry = text.split("\nENTRY ")
    assert "while(" in entry and all(shape in loop for shape in shapes)
    assert not [x for x in loop.splitlines() if " copy(" in x and any(s in x for s in shapes)]


def test_scores_are_penalised_log_probabilities():
    t5 = shared_text2text()
    inputs = random_ids(0, 3, 10)
    result = t5.generate_ids(inputs, length_penalty=0.7, return_token_scores=True, **THREE)
    np.testing.assert_allclose(
        result.token_scores.sum(-1) / result.lengths**0.7, result.scores, atol=1e-4
    )
    assert (np.diff(result.scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("config", "batch"),
    [
        pytest.param(TINY, 1, id="one input"),
        pytest.param(TINY.replace(relative_bias="per_layer"), 2, id="a bias a layer"),
    ],
)
def test_steps_along_an_ancestry_equal_teacher_forcing(config, batch):
    """Beams that go on from others at random see the past that is theirs, and no other."""
    beams, steps = 3, 6
    params = lively_params(config)
    hidden = apply(config, "encode")(params, random_ids(0, batch, 7))
    segments = jnp.ones((batch, 7), jnp.int32)
    own = serving_params(config)
    cross_kv = serve(config, "cross_kv")(own, hidden)
    cache = serving(config).init_cache(batch, 16, beams)
    step, logits_of = serve(config, "decode_hidden"), serve(config, "logits")
    rng = np.random.default_rng(batch)
    ids = np.zeros((batch, beams, 1), np.int64)
    ancestry = np.full((batch, beams, 16), -1)
    for i in range(steps):
        ancestry[:, :, i] = np.arange(beams)
        x, cache = step(
            own, ids[:, :, i].reshape(-1), cross_kv, segments > 0, cache, jnp.int32(i), ancestry
        )
        if i < steps - 1:
            parents = rng.integers(0, beams, (batch, beams))
            rows = np.arange(batch)[:, None]
            chosen = rng.integers(3, 384, (batch, beams, 1))
            ids = np.concatenate([ids[rows, parents], chosen], axis=2)
            ancestry = ancestry[rows, parents]
    forced = apply(config, "decode")(
        params,
        jnp.repeat(hidden, beams, axis=0),
        jnp.repeat(segments, beams, axis=0),
        ids.reshape(batch * beams, -1),
    )
    np.testing.assert_allclose(logits_of(own, x), forced[:, -1], atol=1e-4)


@pytest.mark.parametrize("beams", [1, 4])
def test_a_single_id_equals_transformers(beams):
    from tests.support.generation import RAGGED, compare

    compare(RAGGED, models=3, num_beams=beams, max_new_tokens=1)


def test_a_search_as_t5x_that_nothing_ends_stops_at_the_limit_of_each_input(monkeypatch):
    t5 = shared_text2text()
    inputs = random_ids(5, 2, 8)
    options = {
        "num_beams": 2,
        "num_return_sequences": 2,
        "brevity_penalty": 0.6,
        "suppress_tokens": [1],
        "max_new_tokens": 5,
    }
    prefixes = [[], list(range(5, 15))]
    alone = [
        t5.generate_ids(inputs[i : i + 1], decoder_prefix=prefixes[i : i + 1], **options)
        for i in range(2)
    ]
    for backend in ("cpu", "gpu"):  # a step at a time, and eight
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        both = t5.generate_ids(inputs, decoder_prefix=prefixes, **options)
        assert both.lengths.tolist() == [[5, 5], [15, 15]]
        assert all(settled(both, inputs, decoder_prefix=prefixes, **options))
        for i, one in enumerate(alone):
            width = one.ids.shape[2]
            np.testing.assert_array_equal(both.ids[i, :, :width], one.ids[0])
            np.testing.assert_allclose(both.scores[i], one.scores[0], rtol=1e-5)
