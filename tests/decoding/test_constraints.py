"""Constrained output and stop strings, against plain-Python ones."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5jax.decoding.constraints import AnswerTrie
from t5jax.decoding.processors import Context
from t5jax.decoding.stopping import StopStrings
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary, SentencePieceVocabulary, train_sentencepiece
from t5jax.vocabulary.texts import token_texts
from tests.support.models import TINY, lively_params, random_ids, shared_text2text

ANSWERS = st.lists(st.lists(st.integers(2, 6), max_size=4).map(tuple), min_size=1, max_size=8)


def context(ids, beams=1):
    one = jnp.ones(1, jnp.int32)
    return Context(ids, one[0], one - 1, one, one > 0, beams)


@settings(deadline=None, max_examples=60)
@given(ANSWERS, st.lists(st.integers(0, 30), min_size=5, max_size=5))
def test_exactly_the_ids_that_go_on_are_allowed(answers, choices):
    """Walks through the trie; at every node what is allowed is what any answer goes on with."""
    trie = AnswerTrie.of(answers, eos=(1,))
    state, so_far = trie.start(1), ()
    for choice in choices:
        logits = trie(jnp.zeros((1, 8)), context(jnp.zeros((1, 1), jnp.int32)), state)
        allowed = set(np.flatnonzero(np.isfinite(np.asarray(logits)[0])).tolist())
        n = len(so_far)
        expected = {a[n] for a in answers if a[:n] == so_far and len(a) > n}
        expected |= {1} if so_far in answers else set()
        assert allowed == expected
        token = sorted(allowed)[choice % len(allowed)]
        if token == 1:
            return
        so_far = (*so_far, token)
        state = trie.advance(state, jnp.array([token]), jnp.ones(1, bool))


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param(
            {"do_sample": True, "temperature": 3.0, "num_return_sequences": 2},
            marks=pytest.mark.slow,
        ),
        {"num_beams": 3, "num_return_sequences": 2},
    ],
    ids=str,
)
def test_only_answers_come_out(options):
    t5 = shared_text2text()
    answers = ["yes", "no", "yesterday", "", "ü"]
    for given_as in (answers, [t5.vocabulary.encode(a) for a in answers]):
        results = t5.generate(["a", "bb", "ccc"], answers=given_as, max_new_tokens=12, **options)
        for texts in results:
            assert set([texts] if isinstance(texts, str) else texts) <= set(answers)


def test_beam_search_ranks_answers_by_their_score():
    t5 = shared_text2text()
    answers = ["yes", "no", "maybe", "never"]
    result = t5.generate_ids(
        t5.text_ids("is it so?"),
        answers=answers,
        num_beams=6,
        num_return_sequences=6,
        length_penalty=0.0,
        max_new_tokens=12,
    )
    scores = t5.score(["is it so?"] * 4, answers)
    texts = [t5.vocabulary.decode(ids) for ids in result.ids[0]]
    assert texts[:4] == [answers[i] for i in np.argsort(-scores)]
    np.testing.assert_allclose(result.scores[0, :4], np.sort(scores)[::-1], atol=1e-3)
    # There are no more than four.
    assert (result.scores[0, 4:] == -np.inf).all() and (result.lengths[0, 4:] == 0).all()
    assert texts[4:] == ["", ""]


def test_answers_come_after_a_prefix_and_win_over_other_options():
    t5 = shared_text2text()
    for beams in (1, 2):
        texts = t5.generate(
            ["a", "b"],
            answers=["one", "two"],
            decoder_prefix="it is ",
            suppress_tokens=t5.vocabulary.encode("ot"),
            num_beams=beams,
            max_new_tokens=8,
        )
        assert set(texts) <= {"it is one", "it is two"}


# Stop strings.


def search(texts, ids, strings):
    """Steps after which the last id completed a stop string: each looks at the text anew."""
    stops = []
    for n in range(1, len(ids) + 1):
        before = b"".join(texts[i] for i in ids[: n - 1])
        text = before + texts[ids[n - 1]]
        for string in (s.encode() for s in strings):
            found = text.find(string, max(0, len(before) - len(string) + 1))
            if found >= 0:
                stops.append(n)
                break
    return stops


TEXTS = [b"", b"a", b"b", b"ab", b"ba", b"aab", b"abcab", b"c", "ü".encode(), b"\xc3", b"\xbc"]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.text("abcü", min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=12),
)
def test_automaton_stops_where_a_search_of_the_text_does(strings, ids):
    stop = StopStrings.of(strings, TEXTS)
    state, stops = stop.start(1), []
    for n, token in enumerate(ids, 1):
        state, ended = stop.advance(state, jnp.array([token]))
        stops += [n] * int(ended[0])
    assert stops == search(TEXTS, ids, strings)


@functools.cache
def sentencepiece(folder):
    words = (
        "the cat sat on the mat . a dog stopped at the opera , nonstop . stop it ü abcdef".split()
    )
    syllables = "sto pp op er a no st re ing te on".split()
    texts = []
    for i in range(60):
        rng = np.random.default_rng(i)
        made = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(10)]
        texts.append(" ".join(rng.permutation([*words, *made])))
    return train_sentencepiece(texts, folder / "v.model", vocab_size=90)


@pytest.fixture(scope="module")
def pieces_model(tmp_path_factory) -> tuple[Text2Text, SentencePieceVocabulary]:
    vocabulary = sentencepiece(tmp_path_factory.mktemp("vocabulary"))
    config = TINY.replace(vocab_size=256)
    return Text2Text(config, lively_params(config), vocabulary), vocabulary


def test_texts_of_ids_join_to_what_they_decode_to(pieces_model):
    _, vocabulary = pieces_model
    for which in (vocabulary, ByteVocabulary()):
        texts = token_texts(which)
        assert len(texts) == which.vocab_size
        ids = which.encode("the cat stopped at the opera, ü")
        joined = b"".join(texts[i] for i in ids).decode()
        assert joined.removeprefix(" ") == which.decode(ids)


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"num_beams": 3}, marks=pytest.mark.slow),
        pytest.param({"do_sample": True, "top_k": 0}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_generation_ends_with_the_id_that_completes_a_stop_string(pieces_model, options):
    t5, vocabulary = pieces_model
    texts = token_texts(vocabulary)
    inputs = random_ids(0, 6, 9) % 200 + 3
    whole = t5.generate_ids(inputs, max_new_tokens=16, **options)
    # Strings that lie across ids of what would come.
    text = b"".join(texts[i] for i in whole.ids[0, 0, :6]).decode(errors="ignore")
    strings = [text[2:6], "zz"]
    stopped = t5.generate_ids(inputs, max_new_tokens=16, stop_strings=strings, **options)
    some = 0
    for ids, n, long in zip(stopped.ids[:, 0], stopped.lengths[:, 0], whole.ids[:, 0], strict=True):
        stops = search(texts, ids[:n].tolist(), strings)
        assert stops in ([], [n])
        assert (ids[n:] == 0).all()
        some += bool(stops)
        if "num_beams" not in options:
            np.testing.assert_array_equal(ids[:n], long[:n])
            assert n == min([*search(texts, long.tolist(), strings), len(long)]) or long[n - 1] == 1
    assert some or "num_beams" in options


@pytest.mark.parametrize(
    "seed", [3, *(pytest.param(i, marks=pytest.mark.slow) for i in range(4, 23))]
)
def test_stop_strings_equal_transformers(seed, tmp_path, pieces_model):
    import transformers

    from tests.support.reference import params_of, random_torch, torch

    _, vocabulary = pieces_model
    config = TINY.replace(vocab_size=vocabulary.vocab_size, num_decoder_layers=2)
    model = random_torch(config, seed)
    t5 = Text2Text(config, params_of(config, model), vocabulary)
    t5.save(tmp_path / "hf", format="hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    inputs = random_ids(0, 6, 9) % (vocabulary.vocab_size - 3) + 3
    for strings in (["e"], ["st", "at t", "."], ["op", "no"]):
        for beams in (1, 3):
            options = {"max_new_tokens": 16, "num_beams": beams, "stop_strings": strings}
            with torch.no_grad():
                out = model.generate(
                    torch.tensor(inputs.astype(np.int64)), tokenizer=tokenizer, **options
                ).numpy()[:, 1:]
            result = t5.generate_ids(inputs, **options)
            for ids, n, theirs in zip(result.ids[:, 0], result.lengths[:, 0], out, strict=True):
                np.testing.assert_array_equal(ids[:n], theirs[:n])
                assert set(theirs[n:].tolist()) <= {0, 1}
