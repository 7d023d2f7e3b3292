"""Generation: against transformers, against teacher forcing, and in any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t5jax.decoding.options import GenerationOptions
from t5jax.decoding.samplers import Sample, top_k, top_p
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary
from tests.support.models import TINY, lively_params, random_ids, tiny_text2text


def decisive(t5, result, inputs, gap=1e-4):
    """Whether the top two logits of every step differ by more than `gap`, a row of them."""
    prefix = np.pad(result.ids[:, 0, :-1], ((0, 0), (1, 0)))
    logits = np.sort(np.asarray(t5.logits(inputs, prefix))[..., : t5.vocabulary.vocab_size])
    steps = np.arange(prefix.shape[1]) < result.lengths
    return ((logits[..., -1] - logits[..., -2] > gap) | ~steps).all(axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_ids_equal_transformers(seed):
    from tests.support.reference import ragged_ids, random_pair, torch

    # Of equal depth: transformers 5.23 makes its cache as deep as the encoder and fails beyond it.
    config = TINY.replace(num_layers=3)
    model, params = random_pair(config, seed)
    t5 = Text2Text(config, params, ByteVocabulary())
    inputs = ragged_ids(np.random.default_rng(seed), [11, 3, 7, 1], 384)
    ours = t5.generate_ids(inputs, max_new_tokens=24)
    with torch.no_grad():
        theirs = model.generate(
            torch.tensor(inputs),
            attention_mask=torch.tensor(inputs != 0),
            max_new_tokens=24,
            num_beams=1,
            do_sample=False,
        ).numpy()[:, 1:]
    width = min(theirs.shape[1], ours.ids.shape[-1])
    np.testing.assert_array_equal(ours.ids[:, 0, :width], theirs[:, :width])
    assert theirs.shape[1] == ours.ids.shape[-1]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=9), st.booleans(), st.integers(0, 9))
def test_a_batch_gives_what_each_input_gives_alone(lengths, do_sample, seed):
    t5 = tiny_text2text()
    inputs = random_ids(seed, len(lengths), 20)
    inputs[np.arange(20) >= np.array(lengths)[:, None]] = 0
    options = {"max_new_tokens": 12, "do_sample": do_sample, "seed": seed, "temperature": 0.7}
    together = t5.generate_ids(inputs, **options)
    sure = decisive(t5, together, inputs)
    for i in range(len(inputs)):
        alone = t5.generate_ids(inputs[i : i + 1], **options)
        if sure[i]:
            n = alone.lengths[0, 0]
            assert n == together.lengths[i, 0]
            np.testing.assert_array_equal(alone.ids[0, 0, :n], together.ids[i, 0, :n])
            np.testing.assert_allclose(alone.scores[0], together.scores[i], atol=1e-3)


def test_ids_past_the_vocabulary_are_never_produced():
    config = TINY.replace(vocab_size=512)
    t5 = Text2Text(config, lively_params(config), ByteVocabulary())
    result = t5.generate_ids(
        random_ids(0, 8, 10), do_sample=True, temperature=50.0, top_k=0, num_return_sequences=8
    )
    assert result.ids.max() < 384
    assert result.ids.max() > 370  # nearly uniform, so it came close


def test_scores_are_the_log_probabilities_of_the_ids():
    t5 = tiny_text2text()
    inputs = random_ids(0, 3, 10)
    result = t5.generate_ids(inputs, max_new_tokens=15)
    np.testing.assert_allclose(
        t5.score_ids(inputs, result.ids[:, 0]), result.scores[:, 0], atol=1e-4
    )


def test_scores_equal_a_float64_sum_over_logits():
    t5 = tiny_text2text()
    inputs, targets = random_ids(0, 5, 10), random_ids(1, 5, 7)
    targets[2, 3:] = 0
    prefix = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    logits = np.asarray(t5.logits(inputs, prefix), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = (np.take_along_axis(log_p, targets[..., None], -1)[..., 0] * (targets != 0)).sum(1)
    np.testing.assert_allclose(t5.score_ids(inputs, targets), expected, atol=1e-4)


def test_generation_ends_at_eos_and_pads_after_it():
    params = jax.tree.map(lambda x: x, lively_params(TINY))
    kernel = params["head"]["kernel"]
    # A head that likes EOS a little more in every direction ends some rows early, not all.
    params = {**params, "head": {"kernel": kernel.at[:, 1].set(kernel[:, 100:110].max(axis=1))}}
    t5 = Text2Text(TINY, params, ByteVocabulary())
    result = t5.generate_ids(random_ids(0, 32, 10), max_new_tokens=30, do_sample=True, top_k=0)
    lengths = result.lengths[:, 0]
    assert lengths.min() < lengths.max()
    for ids, n in zip(result.ids[:, 0], lengths, strict=True):
        assert (ids[n:] == 0).all()
        assert 1 not in ids[: n - 1]
        assert ids[n - 1] == 1 or n == 30
    longer = t5.generate_ids(
        random_ids(0, 32, 10), max_new_tokens=30, min_new_tokens=9, do_sample=True, top_k=0
    )
    assert longer.lengths.min() >= 9


def test_block_of_steps_changes_nothing(monkeypatch):
    inputs = random_ids(0, 4, 10)
    t5 = tiny_text2text()
    plain = t5.generate_ids(inputs, max_new_tokens=13)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    blocked = t5.generate_ids(inputs, max_new_tokens=13)
    np.testing.assert_array_equal(plain.ids, blocked.ids)
    np.testing.assert_allclose(plain.scores, blocked.scores, rtol=1e-6)


def test_samples_follow_the_restricted_distribution():
    logits = jnp.log(jnp.array([[0.5, 0.2, 0.15, 0.1, 0.05]]))
    cases = {
        Sample(): [0.5, 0.2, 0.15, 0.1, 0.05],
        Sample(top_k=2): [5 / 7, 2 / 7, 0, 0, 0],
        Sample(top_p=0.6): [5 / 7, 2 / 7, 0, 0, 0],
        Sample(top_p=0.71): [0.5 / 0.85, 0.2 / 0.85, 0.15 / 0.85, 0, 0],
        Sample(temperature=0.5): np.square([0.5, 0.2, 0.15, 0.1, 0.05]) / 0.325,
    }
    keys = jax.random.split(jax.random.key(0), 20_000)
    for sampler, expected in cases.items():
        drawn = sampler(jnp.tile(logits, (20_000, 1)), keys)
        shares = np.bincount(drawn, minlength=5) / 20_000
        np.testing.assert_allclose(shares, expected, atol=0.015, err_msg=str(sampler))


@settings(deadline=None, max_examples=25)
@example(148, 1, 0.9999999999999999)
@given(st.integers(0, 1000), st.integers(1, 12), st.floats(0.05, 1.0))
def test_top_k_and_top_p_equal_transformers(seed, k, p):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    logits = np.random.default_rng(seed).normal(size=(3, 12)).astype(np.float32) * 3
    theirs = transformers.TopKLogitsWarper(k)(None, torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(top_k(jnp.asarray(logits), k), theirs)
    theirs = transformers.TopPLogitsWarper(p)(None, torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(np.isinf(top_p(jnp.asarray(logits), p)), np.isinf(theirs))


def test_seed_decides_samples_and_samples_differ():
    t5 = tiny_text2text()
    inputs = random_ids(0, 2, 6)
    options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 10}
    one, again, other = (t5.generate_ids(inputs, seed=s, **options).ids for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert len({tuple(row) for row in one.reshape(6, -1)}) == 6
    fewer = t5.generate_ids(inputs, seed=1, **(options | {"num_return_sequences": 2})).ids
    np.testing.assert_array_equal(fewer, one[:, :2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_token": 3}, "max_new_tokens"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": -1}, "top_k=-1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"min_new_tokens": 9, "max_new_tokens": 5}, "min_new_tokens=9"),
        ({"num_return_sequences": 2}, "do_sample"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        GenerationOptions().replace(options)
