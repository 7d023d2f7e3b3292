"""The shortlist of a head finds the likeliest id that the whole head has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5jax.engine import decoder
from t5jax.ops.shortlist import make_shortlist
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary
from tests.support.models import TINY, lively_params, random_ids

best = jax.jit(lambda shortlist, hidden, forbidden: shortlist.best(
    hidden, lambda logits: jnp.where(forbidden, -jnp.inf, logits)
))  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.5, 0.999]),
    st.sampled_from(["far", "near", "equal", "zero"]),
)
def test_the_likeliest_allowed_id_is_found(seed, forbidden, kind):
    rng = np.random.default_rng(seed)
    vocab, width = 5003, 48
    kernel = rng.normal(size=(vocab, width)) * rng.lognormal(size=(vocab, 1))
    if kind == "near":  # thousands of candidates: more than are looked up
        kernel = rng.normal(size=(1, width)) + 1e-3 * rng.normal(size=(vocab, width))
    if kind == "equal":
        kernel[1000:] = kernel[rng.integers(0, 1000, vocab - 1000)]
    hidden = rng.normal(size=(2, width)) * (kind != "zero")
    mask = rng.random((2, vocab)) < forbidden
    mask[[0, 1], rng.integers(vocab, size=2)] = False  # one at least is allowed
    kernel, hidden = jnp.asarray(kernel, jnp.float32), jnp.asarray(hidden, jnp.float32)
    exact = np.asarray(kernel, np.float64) @ np.asarray(hidden, np.float64).T
    exact = np.where(mask, -np.inf, exact.T)
    found = np.asarray(best(make_shortlist(kernel), hidden, mask))
    scale = np.linalg.norm(hidden, axis=1) * np.linalg.norm(kernel, axis=1).max()
    for row, (i, logits) in enumerate(zip(found, exact, strict=True)):
        assert not mask[row, i]
        # The best, or one that float32 cannot tell from it.
        assert logits[i] >= logits.max() - 1e-6 * scale[row]
        if kind == "zero":
            assert i == np.flatnonzero(~mask[row])[0]


def test_the_bound_holds_and_is_near():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(4000, 512)), jnp.float32)
    hidden = jnp.asarray(rng.normal(size=(3, 512)), jnp.float32)
    upper = np.asarray(make_shortlist(kernel).upper(hidden))
    exact = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64).T
    assert (upper >= exact).all()
    # A sixth of the logits' standard deviation: few ids come that near to the best one.
    assert (upper - exact).max() < 0.35 * exact.std() and (upper - exact).mean() < 0.2 * exact.std()


OPTIONS = {
    "plain": {},
    "no early end": {"min_new_tokens": 12},
    "n-grams": {"no_repeat_ngram_size": 2},
    "forbidden": {"suppress_tokens": list(range(3, 300)), "bad_words_ids": [[310], [320, 321]]},
    "answers": {"answers": ["one", "two", "three"]},
    "prefix": {"decoder_prefix": [[40, 41]]},
    "penalty": {"repetition_penalty": 1.5},  # not for a shortlist, and as right without
}


# Each compiles its own program.
QUICK = ("plain", "answers")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS],
)
def test_greedy_decoding_gives_the_same_ids_and_scores_with_and_without(name, monkeypatch):
    config = TINY.replace(vocab_size=1024)
    params, inputs = lively_params(config), random_ids(3, 1, 9)

    def run(size: int):
        monkeypatch.setattr(decoder, "SHORTLIST_SIZE", size)
        t5 = Text2Text(config, params, ByteVocabulary(700))
        assert (t5.decoder.shortlist is None) == (size > 2**20)
        options = {"max_new_tokens": 12, **OPTIONS[name]}
        texts.append("".join(t5.stream(t5.encode_ids(inputs), **options)))
        return t5.generate_ids(inputs, return_token_scores=True, **options)

    texts: list[str] = []
    expected, found = run(2**62), run(0)
    assert texts == 2 * [ByteVocabulary(700).decode(expected.ids[0, 0])]
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.token_scores, expected.token_scores, atol=1e-4)


def test_what_is_asked_for_beside_scores_comes_without_them(monkeypatch):
    monkeypatch.setattr(decoder, "SHORTLIST_SIZE", 0)
    config = TINY.replace(vocab_size=1024)
    t5 = Text2Text(config, lively_params(config), ByteVocabulary(700))
    assert t5.decoder.shortlist is not None
    result = t5.generate_ids(
        random_ids(3, 1, 9), max_new_tokens=4, return_scores=False, return_cross_attention=True
    )
    assert result.scores is None and result.token_scores is None
    np.testing.assert_allclose(result.cross_attention.sum(-1), 1, atol=1e-5)
