"""Phrases in beam search: every hypothesis holds them, and with enough beams the best is found."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from t5jax.bulk import generate_each
from t5jax.compiled import ProgramCount
from t5jax.decoding import beam
from t5jax.decoding.controls import Controls, SpecialIds
from t5jax.decoding.loop import BoundNetwork
from t5jax.decoding.phrases import PhraseAutomaton, places, share_out
from t5jax.decoding.rules import Search, TransformersRule
from t5jax.decoding.samplers import Greedy
from tests.support.models import random_ids, settled, shared_text2text

VOCAB, LENGTH = 6, 4
EOS = 1


def holds(ids, phrases):
    """Whether a phrase's ids, or those of one of its alternatives, stand somewhere in a row."""
    ids = list(ids)
    return all(
        any(list(word) == ids[i : i + len(word)] for word in phrase for i in range(len(ids)))
        for phrase in phrases
    )


WORD = st.lists(st.integers(2, 4), min_size=1, max_size=3).map(tuple)
PHRASES = st.lists(
    st.lists(WORD, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2, unique=True
)


@settings(deadline=None, max_examples=40)
@given(PHRASES, st.lists(st.integers(0, 5), max_size=9))
def test_the_automaton_knows_what_is_there_and_what_is_missing(phrases, ids):
    automaton = PhraseAutomaton.of(phrases, VOCAB)
    state = automaton.start(1)
    for i in ids:
        state = automaton.advance(state, jnp.array([i]))
    for c, phrase in enumerate(phrases):
        assert bool(state.met[0, c]) == holds(ids, [phrase])
    assert bool(automaton.holds(state)[0]) == holds(ids, phrases)
    shortest = [min(map(len, phrase)) for phrase in phrases]
    whole = sum(shortest)
    bank = int(automaton.bank(state)[0])
    assert (bank == whole) == holds(ids, phrases)
    # From anywhere, some id of a phrase leads on.
    further = [automaton.advance(state, jnp.array([i])) for i in range(2, 5)]
    assert bank == whole or max(int(automaton.bank(s)[0]) for s in further) > bank


@functools.partial(jax.jit, static_argnames="beams")
def search_table(log_p, phrases, beams):
    """The search on log-probabilities float32[T, V, V] by position and last id."""
    step = lambda tokens, cache, index, ancestry: (log_p[index, tokens], cache)  # noqa: E731
    controls = Controls(
        SpecialIds(start=0, pad=0, eos=(EOS,), limit=VOCAB, vocab=VOCAB),
        jnp.zeros((1, 2), jnp.uint32),
        jnp.int32(LENGTH),
        (),
        Greedy(),
        Search(np.float32(0), beams, beams, TransformersRule(longest=True), phrases=phrases),
    )
    done = jnp.zeros(1, bool)
    state = beam.begin((), done, controls, LENGTH)
    state = beam.decode(state, BoundNetwork(step, lambda x: x), controls, block=1)
    return beam.finish(state, done, controls)


def every_hypothesis(log_p, phrases):
    """All that hold the phrases, with their log-probabilities, best first."""
    found = []
    inner = [i for i in range(VOCAB) if i != EOS]
    for n in range(1, LENGTH + 1):
        for ids in itertools.product(*[inner] * (n - 1), range(VOCAB)):
            if (n == LENGTH or ids[-1] == EOS) and holds(ids, phrases):
                total = sum(
                    log_p[t, a, b] for t, (a, b) in enumerate(itertools.pairwise((0, *ids)))
                )
                found.append((ids, total))
    return sorted(found, key=lambda h: -h[1])


def check_against_all(seed, phrases, beams, best):
    assume(sum(min(map(len, p)) for p in phrases) <= LENGTH)
    logits = np.random.default_rng(seed).normal(size=(LENGTH, VOCAB, VOCAB)) * 2
    log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)))
    expected = every_hypothesis(log_p, phrases)
    result = search_table(log_p, PhraseAutomaton.of(phrases, VOCAB), beams)
    got = [
        (tuple(ids[:n].tolist()), float(score))
        for ids, score, n in zip(
            *map(np.asarray, (result.ids, result.scores, result.lengths)), strict=True
        )
        if score > -np.inf
    ]
    assert got and all(holds(ids, phrases) for ids, _ in got)
    totals = dict(expected)
    for ids, score in got:
        assert abs(totals[ids] - score) < 1e-4
    if best:
        scores = [score for _, score in got]
        wanted = [score for _, score in expected[: len(got)]]
        np.testing.assert_allclose(scores, wanted, atol=1e-4)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), PHRASES)
def test_with_enough_beams_the_search_finds_the_best_that_hold_the_phrases(seed, phrases):
    check_against_all(seed, phrases, beams=256, best=True)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), PHRASES, st.sampled_from([2, 4, 256]))
def test_any_number_of_beams_gives_hypotheses_that_hold_the_phrases(seed, phrases, beams):
    check_against_all(seed, phrases, beams, best=beams == 256)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_beams_are_shared_out_among_banks(seed, beams):
    rng = np.random.default_rng(seed)
    scores, bank = rng.normal(size=(2, 12)).astype(np.float32), rng.integers(0, 4, (2, 12))
    scores[rng.random((2, 12)) < 0.2] = -np.inf
    kept, at = share_out(jnp.asarray(scores), jnp.asarray(bank), beams)
    place = np.asarray(places(jnp.asarray(scores), jnp.asarray(bank)))
    for row in range(2):
        alike = lambda i: [j for j in range(12) if bank[row, j] == bank[row, i]]  # noqa: B023, E731
        better = [sum(scores[row, j] > scores[row, i] for j in alike(i)) for i in range(12)]
        alive = np.isfinite(scores[row])
        assert (place[row] == better)[alive].all()
        order = sorted(range(12), key=lambda i: (not alive[i], place[row, i], -bank[row, i]))
        wanted = np.sort(scores[row, order[:beams]])[::-1]
        np.testing.assert_array_equal(kept[row], wanted)
        np.testing.assert_array_equal(scores[row, np.asarray(at[row])], wanted)


FORCED = [[[50, 51, 52]], [[60, 61], [70]], [[80]]]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4, "num_return_sequences": 4},
        pytest.param(
            {"num_beams": 3, "brevity_penalty": 0.6, "num_return_sequences": 3},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"num_beams": 2, "early_stopping": True, "no_repeat_ngram_size": 2},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_every_output_of_a_model_holds_the_phrases(options):
    t5 = shared_text2text()
    inputs = random_ids(3, 2, 8)
    result = t5.generate_ids(inputs, force_words_ids=FORCED, max_new_tokens=10, **options)
    assert np.isfinite(result.scores[:, 0]).all()
    for ids, score in zip(result.ids.reshape(-1, 10), result.scores.ravel(), strict=True):
        assert holds(ids.tolist(), FORCED) or score == -np.inf
    assert settled(result, inputs, force_words_ids=FORCED, max_new_tokens=10, **options)[1]
    alone = t5.generate_ids(inputs[1:], force_words_ids=FORCED, max_new_tokens=10, **options)
    np.testing.assert_array_equal(alone.ids[0], result.ids[1, :, : alone.ids.shape[2]])


def test_phrases_as_transformers_writes_them_and_what_is_given_counts():
    t5 = shared_text2text()
    options = {"num_beams": 2, "max_new_tokens": 6}
    plain = t5.generate_ids(
        random_ids(3, 1, 8), force_words_ids=[[50, 51], [[60], [70, 71]]], **options
    )
    assert holds(plain.ids[0, 0].tolist(), [[[50, 51]], [[60], [70, 71]]])
    given = t5.generate_ids(
        random_ids(3, 1, 8), decoder_prefix=[[50, 51]], force_words_ids=[[50, 51]], **options
    )
    free = t5.generate_ids(random_ids(3, 1, 8), decoder_prefix=[[50, 51]], **options)
    assert given.ids[0, 0, :2].tolist() == [50, 51]
    assert np.isfinite(given.scores).all() and given.scores[0, 0] <= free.scores[0, 0] + 1e-5
    # Texts in files go the same way.
    word = t5.vocabulary.encode("ok")
    (text,) = generate_each(t5, ["a"], force_words_ids=[word], **options)
    assert "ok" in text


def test_other_phrases_of_like_sizes_compile_nothing_anew():
    t5, programs, compiled = shared_text2text(), ProgramCount(), []
    for i in range(2):
        words = [[50 + i, 51], [[60], [70 + i]]]
        t5.generate_ids(
            random_ids(3, 1, 8), force_words_ids=words, num_beams=2, max_new_tokens=6 + i
        )
        compiled.append(programs.count)
    assert compiled[0] == compiled[1]


REFUSED = [
    ({"force_words_ids": [[5]]}, "force_words_ids=.* needs num_beams"),
    ({"force_words_ids": [[1, 5]], "num_beams": 2}, "force_words_ids holds id 1, which ends"),
    ({"force_words_ids": [[400]], "num_beams": 2}, "force_words_ids holds id 400"),
    ({"force_words_ids": [[]], "num_beams": 2}, "force_words_ids=.* must be sequences"),
    ({"force_words_ids": [5], "num_beams": 2}, "force_words_ids=.* must be sequences"),
    ({"force_words_ids": [[5]], "num_beams": 2, "do_sample": True}, "needs do_sample=False"),
    ({"force_words_ids": [[5]], "num_beams": 2, "answers": [[5]]}, "force_words_ids and answers"),
    (
        {"force_words_ids": [[5, 6, 7]], "num_beams": 2, "max_new_tokens": 2},
        "max_new_tokens=2 has no room for force_words_ids",
    ),
    (
        {"force_words_ids": [[5, 6]], "num_beams": 2, "suppress_tokens": [6]},
        "force_words_ids holds .* which suppress_tokens forbids",
    ),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=str)
def test_phrases_that_cannot_be_are_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words):
        shared_text2text().check_options(options)
