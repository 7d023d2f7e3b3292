"""Logit processors: each against transformers', alone and in whole generations."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from t5jax.bulk import generate_each
from t5jax.compiled import ProgramCount
from t5jax.decoding import samplers
from t5jax.decoding.controls import SpecialIds, make_processors
from t5jax.decoding.options import GenerationOptions
from t5jax.decoding.processors import Context
from t5jax.engine import programs
from tests.support.models import TINY, random_ids, shared_text2text, tiny_text2text

VOCAB = 12
WORDS = [[5], [3, 4], [7, 7, 8], [2, 9, 4, 3]]

# What each option is called with, alone.
CASES = {
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "repetition_reward": {"repetition_penalty": 0.8},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "no_repeat_1_gram": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[i] for i in range(100, 180)] + [[184, 184], [339, 70]]},
    "min_new_tokens": {"min_new_tokens": 9},
    "forced_bos_token_id": {"forced_bos_token_id": 77},
    "forced_eos_token_id": {"forced_eos_token_id": 1},
    "suppress_tokens": {"suppress_tokens": list(range(200, 384))},
    "eos_token_id": {"eos_token_id": [1, 7, *range(300, 330)]},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(100, 384))},
    "begin_suppress_tokens, forced": {
        "begin_suppress_tokens": list(range(100, 384)),
        "forced_bos_token_id": 77,
    },
    "exponential_decay": {"exponential_decay_length_penalty": (3, 1.6)},
    "sequence_bias": {"sequence_bias": [[[i], -1.5] for i in range(100, 200)] + [[[3, 5], 9.0]]},
    "renormalize_logits": {"renormalize_logits": True, "suppress_tokens": list(range(99, 384))},
}
TOGETHER = {
    "sequence_bias": [[[184], 2.5], [[339], -1.0], [[77, 30], 4.0]],
    "exponential_decay_length_penalty": (6, 1.1),
    "begin_suppress_tokens": [30, 31, 32],
    "renormalize_logits": True,
    "repetition_penalty": 1.2,
    "encoder_repetition_penalty": 1.5,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[184], [339, 70], [31, 32, 33]],
    "min_new_tokens": 3,
    "forced_bos_token_id": 77,
    "forced_eos_token_id": 1,
    "suppress_tokens": [9, 10, 11],
    "eos_token_id": [1, 7],
}


@pytest.mark.parametrize("beams", [1, 4])
def test_all_together_equal_transformers(beams):
    from tests.support.generation import EVEN, compare

    compare(EVEN, models=6, num_beams=beams, **TOGETHER)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_each_equals_transformers(case, beams):
    from tests.support.generation import EVEN, RAGGED, compare

    # transformers counts padding among an input's ids; ours may not depend on the batch.
    inputs = EVEN if case.startswith("encoder") else RAGGED
    compare(inputs, num_beams=beams, **CASES[case])


def context_of(ids, length, most):
    """Where a generation of at most `most` ids stands that has `ids`, -1 from `length` on."""
    padded = np.full((len(ids), most + 1), -1, np.int32)
    padded[:, :length] = ids[:, :length]
    return Context(
        jnp.asarray(padded),
        jnp.int32(length),
        jnp.full(1, length - 1),
        jnp.full(1, most - (length - 1)),
        jnp.ones(1, bool),
    )


def processed(options, ids, length, logits, inputs, most=8):
    """Our processors' result after the ids up to `length`."""
    settings = GenerationOptions(max_new_tokens=most, **options)
    special = SpecialIds(
        start=0, pad=0, eos=settings.eos_token_id or (1,), limit=VOCAB, vocab=VOCAB
    )
    logits = jnp.asarray(logits)
    for processor in make_processors(settings, special, inputs, inputs != 0):
        state = processor.start(len(ids))
        for i in range(length):
            state = processor.advance(state, jnp.asarray(ids[:, i]), jnp.full(1, i > 0))
        logits = processor(logits, context_of(ids, length, most), state)
    return np.asarray(logits)


@functools.cache
def their_model():
    import transformers

    small = {"vocab_size": VOCAB, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(num_heads=1, **small))


def their_processors(options, inputs, most=8):
    """transformers', made as its generate makes them."""
    import torch
    import transformers

    options = {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0} | options
    config = transformers.GenerationConfig(max_length=most + 1, max_new_tokens=most, **options)
    model = their_model()
    model._prepare_special_tokens(config, True, device="cpu")
    return model._get_logits_processor(config, 1, torch.tensor(inputs), device="cpu")


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "encoder_repetition_penalty": st.floats(0.5, 2),
        "repetition_penalty": st.floats(0.5, 2),
        "no_repeat_ngram_size": st.integers(1, 4),
        "encoder_no_repeat_ngram_size": st.integers(1, 4),
        "bad_words_ids": st.lists(
            st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4), min_size=1, max_size=5
        ),
        "min_new_tokens": st.integers(1, 8),
        "forced_bos_token_id": st.integers(0, VOCAB - 1),
        "forced_eos_token_id": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=2),
        "suppress_tokens": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
        "eos_token_id": st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=3),
        "begin_suppress_tokens": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
        "exponential_decay_length_penalty": st.tuples(st.integers(0, 8), st.floats(1, 2)),
        "sequence_bias": st.dictionaries(
            st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4).map(tuple),
            st.floats(-4, 4, width=16),
            min_size=1,
            max_size=5,
        ),
    },
)


@settings(deadline=None, max_examples=60)
@given(OPTIONS, st.integers(0, 10_000), st.integers(1, 8))
def test_any_combination_equals_transformers(options, seed, length):
    torch = pytest.importorskip("torch")
    # Those are refused, here and there.
    suppressed = options.get("suppress_tokens", [])
    assume(not set(options.get("forced_eos_token_id", [-1])) <= set(suppressed))
    assume(options.get("forced_bos_token_id") not in suppressed)
    rng = np.random.default_rng(seed)
    # Few ids, so that they repeat.
    ids = np.pad(rng.integers(2, 6, (3, 8)), ((0, 0), (1, 0)))
    inputs = rng.integers(2, 6, (3, 7)).astype(np.int32)
    logits = rng.normal(size=(3, VOCAB)).astype(np.float32)
    expected = their_processors(options, inputs)(
        torch.tensor(ids[:, :length]), torch.tensor(logits)
    )
    # The decay adds a multiple of a logit to it, which may leave almost nothing.
    _, decay = options.get("exponential_decay_length_penalty", (0, 1.0))
    np.testing.assert_allclose(
        processed(options, ids, length, logits, inputs),
        expected.numpy(),
        rtol=1e-5,
        atol=1e-6 * np.abs(logits).max() * decay**length,
    )


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("option", ["bad_words_ids", "sequence_bias"])
def test_the_start_id_may_begin_a_word_as_in_transformers_5(option, length):
    torch = pytest.importorskip("torch")
    words = {"bad_words_ids": [[0, 5], [0, 0, 6]], "sequence_bias": {(0, 5): 3.0, (0, 0, 6): 2.0}}
    options = {option: words[option]}
    ids, inputs = np.zeros((1, 9), np.int64), np.array([[5, 6, 1]], np.int32)
    logits = np.zeros((1, VOCAB), np.float32)
    expected = their_processors(options, inputs)(
        torch.tensor(ids[:, :length]), torch.tensor(logits)
    )
    np.testing.assert_array_equal(processed(options, ids, length, logits, inputs), expected)


def test_an_end_that_is_forbidden_is_not_made_likelier():
    options = {"exponential_decay_length_penalty": (1, 2.0), "min_new_tokens": 6}
    ids, inputs = np.full((1, 9), 4), np.array([[5, 6, 1]], np.int32)
    logits = np.ones((1, VOCAB), np.float32)
    assert processed(options, ids, 5, logits, inputs)[0, 1] == -np.inf
    assert processed(options, ids, 7, logits, inputs)[0, 1] == 32.0  # 1 + 1 * (2^5 - 1)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.02, 0.98), st.integers(1, 3))
def test_restrictions_of_sampling_equal_transformers(seed, p, keep):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    logits = np.random.default_rng(seed).normal(size=(4, VOCAB)).astype(np.float32) * 2
    cases = {
        "min_p": transformers.MinPLogitsWarper,
        "typical_p": transformers.TypicalLogitsWarper,
        "epsilon_cutoff": transformers.EpsilonLogitsWarper,
        "eta_cutoff": transformers.EtaLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
    }
    for name, theirs in cases.items():
        expected = theirs(p, min_tokens_to_keep=keep)(None, torch.tensor(logits)).numpy()
        got = np.asarray(getattr(samplers, name)(jnp.asarray(logits), p, keep))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(expected), err_msg=name)


def test_padding_changes_nothing_that_inputs_do():
    t5 = shared_text2text()
    short = random_ids(0, 1, 6)
    padded = np.zeros((2, 16), np.int32)
    padded[0, :6], padded[1] = short, random_ids(1, 16)
    options = {"encoder_repetition_penalty": 3.0, "encoder_no_repeat_ngram_size": 2}
    alone = t5.generate_ids(short, max_new_tokens=12, **options)
    together = t5.generate_ids(padded, max_new_tokens=12, **options)
    np.testing.assert_array_equal(alone.ids[0], together.ids[0])


def test_other_numbers_compile_nothing_anew():
    t5, programs, compiled = shared_text2text(), ProgramCount(), []
    inputs = random_ids(0, 2, 8)
    for i in range(3):
        numbers = {
            "repetition_penalty": 1.1 + i,
            "suppress_tokens": [5, 9 + i],
            "bad_words_ids": [[3 + i], [4, 5 + i]],
            "begin_suppress_tokens": [8 + i],
            "sequence_bias": {(3 + i,): 1.0 + i, (4, 6 + i): 0.5},
            "exponential_decay_length_penalty": (2 + i, 1.1 + i),
            "forced_bos_token_id": 20 + i,
            "min_new_tokens": i,
            "max_new_tokens": 8 + i,
            "temperature": 0.5 + i,
            "top_p": 0.5 + i / 10,
            "eta_cutoff": 0.01 + i / 100,
            "do_sample": True,
            "answers": [[5, 6 + i], [7 + i]],
            "stop_strings": ["ab" * (1 + i)],
            "seed": i,
        }
        t5.generate_ids(inputs, **numbers)
        t5.generate_ids(inputs, max_new_tokens=8, num_beams=2, length_penalty=0.5 + i)
        compiled.append(programs.count)
    assert compiled[0] == compiled[1] == compiled[2]


def test_a_users_function_sees_ids_and_decides():
    t5 = shared_text2text()
    inputs = random_ids(0, 2, 8)
    width = 384

    def count_up(ids, logits):
        """The id after the last one, from 20 on."""
        length = jnp.sum(ids >= 0, axis=1)
        last = jnp.take_along_axis(ids, length[:, None] - 1, axis=1)
        wanted = jnp.where(length[:, None] == 1, 20, last + 1)
        return jnp.where(jnp.arange(width) == wanted, logits, -jnp.inf)

    for options in ({}, {"num_beams": 2}, {"do_sample": True}):
        result = t5.generate_ids(inputs, logits_processor=count_up, max_new_tokens=9, **options)
        np.testing.assert_array_equal(result.ids[:, 0], [np.arange(20, 29)] * 2)
    with pytest.raises(ValueError, match=r"logits_processor gives .*\[2\]"):
        t5.generate_ids(inputs, logits_processor=lambda ids, logits: logits[:, 0])
    with pytest.raises(ValueError, match="logits_processor=3 must be a function"):
        t5.generate_ids(inputs, logits_processor=3)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 6), min_size=3, max_size=3), st.sampled_from([1, 3]))
def test_a_forced_prefix_is_what_the_output_begins_with(lengths, beams):
    t5 = shared_text2text()
    inputs = random_ids(0, 3, 8)
    prefixes = [random_ids(i, n).tolist() for i, n in enumerate(lengths)]
    options = {"max_new_tokens": 7, "num_beams": beams, "min_new_tokens": 7}
    result = t5.generate_ids(inputs, decoder_prefix=prefixes, return_token_scores=True, **options)
    for i, prefix in enumerate(prefixes):
        n = len(prefix)
        assert result.lengths[i, 0] == n + 7
        np.testing.assert_array_equal(result.ids[i, 0, :n], prefix)
        assert (result.token_scores[i, 0, :n] == 0).all()
        whole = t5.score_ids(inputs[i : i + 1], result.ids[i, :1, : n + 7])
        given = t5.score_ids(inputs[i : i + 1], [prefix]) if n else 0
        score = result.scores[i, 0] * (7 if beams > 1 else 1)
        np.testing.assert_allclose(score, whole[0] - np.float32(given), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 4])
def test_a_users_function_equals_transformers(beams):
    from tests.support.generation import MODELS, RAGGED, assert_same, ours, pair, theirs, torch

    liked = np.random.default_rng(0).normal(size=(384, 384)).astype(np.float32)

    def like(ids, logits):
        """Each id likes some to come after it."""
        at = jnp.sum(ids >= 0, axis=1, keepdims=True) - 1
        return logits + jnp.asarray(liked)[jnp.take_along_axis(ids, at, axis=1)[:, 0]]

    def as_torch(ids, logits):
        return logits + torch.tensor(liked)[ids[:, -1]]

    for seed in range(MODELS):
        model, t5 = pair(seed)
        expected = theirs(model, RAGGED, num_beams=beams, logits_processor=[as_torch])
        assert_same(ours(t5, RAGGED, num_beams=beams, logits_processor=like), expected)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 4])
def test_answers_equal_transformers(beams):
    from tests.support.generation import MODELS, RAGGED, assert_same, ours, pair, theirs

    rng = np.random.default_rng(0)
    # Four ids for all, so that answers begin alike and some begin others.
    answers = [rng.integers(5, 9, n).tolist() for n in rng.integers(1, 6, 40)]

    def allowed(_, ids):
        so_far = ids.tolist()[1:]
        more = {a[len(so_far)] for a in answers if a[: len(so_far)] == so_far != a}
        return sorted(more | ({1} if so_far in answers else set())) or [0]

    for seed in range(MODELS):
        model, t5 = pair(seed)
        expected = theirs(model, RAGGED, num_beams=beams, prefix_allowed_tokens_fn=allowed)
        assert_same(ours(t5, RAGGED, num_beams=beams, answers=answers), expected)


@pytest.mark.parametrize("models", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("beams", [1, 4])
def test_a_forced_prefix_equals_transformers(beams, models):
    from tests.support.generation import RAGGED, assert_same, ours, pair, theirs, torch

    prefix = random_ids(5, 4, 3)
    # EOS inside of what is given ends nothing.
    prefix[1, 1] = 1
    shifted = torch.tensor(np.pad(prefix, ((0, 0), (1, 0))).astype(np.int64))
    for seed in range(models):
        model, t5 = pair(seed)
        options = {"num_beams": beams, "no_repeat_ngram_size": 2, "min_new_tokens": 12}
        expected = theirs(model, RAGGED, decoder_input_ids=shifted, eos_token_id=[2], **options)
        result = ours(t5, RAGGED, decoder_prefix=prefix, eos_token_id=[2], **options)
        assert_same(result, expected)


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", ["never", False])
def test_a_length_penalty_counts_no_prefix_as_in_transformers(early_stopping):
    from tests.support.generation import RAGGED, assert_same, ours, pair, theirs, torch

    prefix = random_ids(5, 4, 3)
    shifted = torch.tensor(np.pad(prefix, ((0, 0), (1, 0))).astype(np.int64))
    options = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": early_stopping}
    for seed in range(5):
        model, t5 = pair(seed)
        expected = theirs(model, RAGGED, decoder_input_ids=shifted, **options)
        assert_same(ours(t5, RAGGED, decoder_prefix=prefix, **options), expected)


REFUSED = [
    ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences=3 must be at most"),
    ({"length_penalty": 2.0}, "length_penalty=2.0 needs num_beams"),
    ({"early_stopping": True}, "early_stopping=True needs num_beams"),
    ({"early_stopping": "soon", "num_beams": 2}, "early_stopping='soon' must be"),
    ({"brevity_penalty": 0.6}, "brevity_penalty=0.6 needs num_beams"),
    (
        {"brevity_penalty": 0.6, "length_penalty": 2.0, "num_beams": 2},
        "brevity_penalty=0.6 and length_penalty=2.0",
    ),
    (
        {"brevity_penalty": 0.6, "early_stopping": True, "num_beams": 2},
        "early_stopping=True has no meaning",
    ),
    ({"top_p": 0.9}, "top_p=0.9 needs do_sample=True"),
    ({"temperature": 0.9}, "temperature=0.9 needs do_sample=True"),
    ({"min_p": 2.0, "do_sample": True}, "min_p=2.0 must be"),
    ({"typical_p": 0.0, "do_sample": True}, "typical_p=0.0 must be"),
    ({"epsilon_cutoff": 1.0, "do_sample": True}, "epsilon_cutoff=1.0 must be"),
    ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be more than 0"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1 must be"),
    ({"num_beams": 0}, "num_beams=0 must be at least 1"),
    ({"bad_words_ids": [[]]}, "bad_words_ids"),
    ({"bad_words_ids": [[5, 384]]}, "bad_words_ids holds id 384"),
    ({"suppress_tokens": [-1]}, "suppress_tokens"),
    ({"suppress_tokens": [400]}, "suppress_tokens holds id 400"),
    ({"forced_bos_token_id": 384}, "forced_bos_token_id holds id 384"),
    ({"forced_eos_token_id": 999}, "forced_eos_token_id holds id 999"),
    (
        {"forced_eos_token_id": [5], "suppress_tokens": [4, 5]},
        r"forced_eos_token_id=\(5,\) is forbidden by suppress_tokens",
    ),
    (
        {"forced_bos_token_id": 5, "suppress_tokens": [4, 5]},
        r"forced_bos_token_id=5 is forbidden by suppress_tokens",
    ),
    ({"eos_token_id": [1, 999]}, "eos_token_id holds id 999"),
    ({"eos_token_id": "x"}, "eos_token_id='x' must be ids"),
    ({"answers": []}, "answers="),
    ({"answers": [[5, 1, 6]]}, "answers: .* goes on after id 1"),
    ({"answers": ["tomorrow"], "max_new_tokens": 7}, "max_new_tokens=7 would cut .* 8 ids"),
    (
        {"answers": ["a", "abc."], "stop_strings": [".", "b"]},
        r"stop_strings=\['.', 'b'\] would cut the answer 'abc.' short",
    ),
    ({"max_new_tokens": "8"}, "max_new_tokens='8' must be a whole number"),
    ({"max_new_tokens": 8.5}, "max_new_tokens=8.5 must be a whole number"),
    ({"num_beams": True}, "num_beams=True must be a whole number"),
    ({"do_sample": "yes"}, "do_sample='yes' must be true or false"),
    ({"num_beams": 2, "early_stopping": 1}, "early_stopping=1 must be true, false or never"),
    ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty=nan must be a number"),
    ({"temperature": "hot", "do_sample": True}, "temperature='hot' must be a number"),
    ({"max_new_tokens": jnp.float32(8)}, "max_new_tokens=.* must be a whole number"),
    ({"temperature": np.array([0.5, 0.6]), "do_sample": True}, "temperature=.* must be a number"),
    ({"suppress_tokens": 1.5}, "suppress_tokens=1.5 must be ids"),
    ({"answers": [1.5]}, r"answers=\[1.5\] must be texts, or"),
    ({"answers": ["\ud800"]}, "answers=.* must be texts"),
    ({"answers": {"a": 1}}, "answers=.* must be texts"),
    ({"suppress_tokens": [True]}, r"suppress_tokens=\[True\] must be ids"),
    ({"suppress_tokens": b"a"}, "suppress_tokens=b'a' must be ids"),
    ({"begin_suppress_tokens": [400]}, "begin_suppress_tokens holds id 400"),
    ({"sequence_bias": [[[400], 1.0]]}, "sequence_bias holds id 400"),
    ({"sequence_bias": {(): 1.0}}, "sequence_bias=.* must be a mapping"),
    ({"sequence_bias": {(5,): float("-inf")}}, "sequence_bias=.* must be a mapping"),
    ({"sequence_bias": [5]}, "sequence_bias=.* must be a mapping"),
    ({"exponential_decay_length_penalty": 1.5}, "exponential_decay.*=1.5 must be a whole number"),
    ({"exponential_decay_length_penalty": (3, 0)}, "a factor that is positive"),
    ({"eta_cutoff": 0.1}, "eta_cutoff=0.1 needs do_sample=True"),
    ({"eta_cutoff": 1.0, "do_sample": True}, "eta_cutoff=1.0 must be"),
    ({"max_new_tokens": 10**30}, "max_new_tokens=1000.* must be at most 2147483647"),
    ({"seed": 2**70, "do_sample": True}, "seed=.* must be from -9223"),
    ({"temperature": 1e-60, "do_sample": True}, "temperature=1e-60 must be a number"),
    ({"temperature": 10**400, "do_sample": True}, "temperature=1000.* must be a number"),
    ({"length_penalty": 1e6, "num_beams": 2}, "length_penalty=1000000.0 must be from -36 to 36"),
    ({"length_penalty": 15, "num_beams": 2}, "length_penalty=15.0 must be nearer to 0: float32"),
    ({"stop_strings": [5]}, "stop_strings=.* must be texts"),
    ({"max_length": 20}, "'max_length'; give max_new_tokens, .* one less"),
    ({"stop_strings": [""]}, "stop_strings"),
    ({"decoder_prefix": ["a"]}, "decoder_prefix has 1 rows for 2 inputs"),
    ({"decoder_prefix": [[5], [384]]}, r"decoder_prefix holds \[384\]"),
    ({"decoder_prefix": [5, 6]}, "decoder_prefix holds 5; give texts, or ids"),
    (
        {"decoder_prefix": "a", "forced_bos_token_id": 5},
        "forced_bos_token_id=5 and decoder_prefix both",
    ),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=str)
def test_what_cannot_be_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words):
        shared_text2text().generate(["a", "b"], **options)


def test_what_is_refused_is_refused_before_there_is_any_input():
    t5 = shared_text2text()
    for options, words in REFUSED:
        if "decoder_prefix" not in options:
            with pytest.raises(ValueError, match=words):
                t5.check_options(options)
            with pytest.raises(ValueError, match=words):
                t5.stream("a", **options)
            with pytest.raises(ValueError, match=words):
                generate_each(t5, iter(()), **options)


def test_none_turns_an_option_off_and_numbers_may_be_of_numpy():
    given = {
        "top_k": None,
        "suppress_tokens": None,
        "eos_token_id": np.array([1, 2]),
        "bad_words_ids": jnp.array([[3, 4]]),
        "do_sample": np.True_,
        "temperature": np.float32(0.5),
        "max_new_tokens": np.int64(9),
        "num_beams": 2,
        "early_stopping": np.True_,
    }
    options = GenerationOptions(top_k=3, suppress_tokens=[7]).replace(given)
    assert options == GenerationOptions(
        top_k=0,
        eos_token_id=[1, 2],
        bad_words_ids=[[3, 4]],
        do_sample=True,
        temperature=0.5,
        max_new_tokens=9,
        num_beams=2,
        early_stopping=True,
    )
    assert options.early_stopping is True and type(options.max_new_tokens) is int
    nothing = dict.fromkeys(GenerationOptions.names())
    assert shared_text2text().check_options(nothing) == GenerationOptions(top_k=0)


def test_what_a_call_asks_for_goes_before_what_a_checkpoint_says():
    options = GenerationOptions(min_new_tokens=6, forced_bos_token_id=5)
    assert options.replace({"max_new_tokens": 3}).min_new_tokens == 3
    with pytest.raises(ValueError, match="min_new_tokens=7 must be between 0 and max_new_tokens=3"):
        options.replace({"max_new_tokens": 3, "min_new_tokens": 7})
    t5 = tiny_text2text(generation=options)
    assert t5.generate("x", decoder_prefix="it", max_new_tokens=3).startswith("it")


def test_rows_of_several_lengths_are_refused():
    with pytest.raises(ValueError, match=r"input_ids must be int.* rows of one length; pad .* 0"):
        shared_text2text().generate_ids([[5, 6], [7]])


def test_where_nothing_is_left_what_is_asked_for_beside_is_empty():
    result = shared_text2text().generate_ids(
        [[5, 6, 1]],
        num_beams=2,
        suppress_tokens=list(range(384)),
        max_new_tokens=4,
        return_token_scores=True,
        return_cross_attention=True,
    )
    assert result.lengths.tolist() == [[0]] and result.scores[0, 0] == -np.inf
    assert result.ids.shape == result.token_scores.shape == (1, 1, 0)
    assert result.cross_attention.shape[-2:] == (0, 3)


def test_what_needs_a_vocabulary_says_so():
    from t5jax.text2text import Text2Text
    from tests.support.models import lively_params

    t5 = Text2Text(TINY, lively_params(TINY), None)
    for options in ({"stop_strings": ["x"]}, {"answers": ["yes"]}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}.*no vocabulary"):
            t5.generate_ids([[5, 6, 1]], **options)


def test_greedy_without_controls_is_the_plain_program():
    """Nothing is carried, scattered or sorted for options that nobody asked for."""
    t5 = shared_text2text()
    decoder, encoded = t5.decoder, t5.encode_ids(random_ids(0, 2, 8))
    job = decoder.job(encoded, t5.request({}, inputs=2), np.arange(2), rows=2)
    text = (
        programs.decode.lower(decoder.network, decoder.params, job, room=16, last=True, block=1)
        .compile()
        .as_text()
    )
    assert "while(" in text
    assert not re.search(r"\b(sort|scatter|topk)\(|\"TopK", text)


def test_options_of_a_call_override_those_of_a_checkpoint_that_they_contradict():
    t5 = tiny_text2text(generation=GenerationOptions(num_beams=4, length_penalty=2.0))
    inputs = random_ids(0, 2, 6)
    greedy = t5.generate_ids(inputs, num_beams=1, max_new_tokens=6)
    np.testing.assert_array_equal(
        greedy.ids, shared_text2text().generate_ids(inputs, max_new_tokens=6).ids
    )


def test_options_are_equal_however_lists_are_written():
    lists = GenerationOptions(bad_words_ids=[[1, 2]], suppress_tokens=[3], eos_token_id=1)
    tuples = GenerationOptions(bad_words_ids=((1, 2),), suppress_tokens=(3,), eos_token_id=(1,))
    assert lists == tuples and hash(lists) == hash(tuples)
    assert jax.tree.leaves(lists.sampler()) == []
