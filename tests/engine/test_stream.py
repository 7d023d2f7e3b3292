"""Streaming, encoding once, and what a result tells beside its ids."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5jax.engine import programs
from t5jax.vocabulary import ByteVocabulary, train_sentencepiece
from t5jax.vocabulary.conversion import to_tokenizer_json
from t5jax.vocabulary.texts import pieces
from t5jax.vocabulary.tokenizer_json import TokenizerJsonVocabulary
from tests.support.models import random_ids, shared_text2text


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    texts = ["the cat sat on the mat", "a dog, ü and 日本", "stop  it   now"] * 9
    own = train_sentencepiece(texts, folder / "v.model", vocab_size=25)
    return ByteVocabulary(), own, TokenizerJsonVocabulary(to_tokenizer_json(own))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_pieces_join_to_the_decoded_text(vocabularies, data):
    for vocabulary in vocabularies:
        some = st.integers(0, vocabulary.vocab_size - 1)
        if isinstance(vocabulary, ByteVocabulary):
            # Broken and whole characters alike.
            some |= st.sampled_from(vocabulary.encode("aé日🎉 \n\ufffd"))
        ids = data.draw(st.lists(some, max_size=20))
        if isinstance(vocabulary, ByteVocabulary) and data.draw(st.booleans()):
            ids = vocabulary.encode(data.draw(st.text(max_size=12)))
        cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=5).map(sorted))
        parts = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
        out = list(pieces(vocabulary, iter(parts)))
        assert "".join(out) == vocabulary.decode(ids)
        assert all(out)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param(
            {
                "do_sample": True,
                "temperature": 2.0,
                "seed": 4,
                "no_repeat_ngram_size": 2,
                "stop_strings": ["zz"],
                "decoder_prefix": "it is ",
            },
            marks=SLOW,
        ),
        pytest.param({"answers": ["yes", "no"]}, marks=SLOW),
        pytest.param({"stop_strings": ["a", "e", "i"]}, marks=SLOW),
        pytest.param({"repetition_penalty": 1.4, "encoder_no_repeat_ngram_size": 1}, marks=SLOW),
    ],
    ids=str,
)
def test_streamed_pieces_join_to_what_generate_gives(options):
    t5 = shared_text2text()
    for text in ("hello", ""):
        streamed = list(t5.stream(text, max_new_tokens=20, **options))
        assert "".join(streamed) == t5.generate(text, max_new_tokens=20, **options)
        if options.get("no_repeat_ngram_size"):
            assert len(streamed) > 2


def test_pieces_come_while_decoding_goes_on(monkeypatch):
    t5 = shared_text2text()
    steps = []
    real = programs.advance
    monkeypatch.setattr(programs, "advance", lambda *a, **k: steps.append(1) or real(*a, **k))
    stream = t5.stream("hello", max_new_tokens=30, min_new_tokens=30, suppress_tokens=[0, 2])
    next(stream)
    assert len(steps) < 15
    list(stream)
    assert len(steps) == 30


def test_what_cannot_be_streamed_is_refused_at_once():
    t5 = shared_text2text()
    cases = [
        ("a", {"num_beams": 2}, "num_beams=2 cannot be streamed"),
        (
            "a",
            {"num_return_sequences": 2, "do_sample": True},
            "num_return_sequences=2 cannot be streamed",
        ),
        (["a", "b"], {}, "one text"),
        (t5.encode(["a", "b"]), {}, "one input, not 2"),
    ]
    for text, options, words in cases:
        with pytest.raises(ValueError, match=words):
            t5.stream(text, **options)


def test_what_is_encoded_once_is_decoded_many_times(monkeypatch):
    t5 = shared_text2text()
    calls = []
    real = programs.encode
    monkeypatch.setattr(programs, "encode", lambda *a: calls.append(1) or real(*a))
    texts = ["hello", "a longer input", "x"]
    cases = [
        {},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
        {"do_sample": True, "num_return_sequences": 3, "seed": 2},
        {"decoder_prefix": ["a", "", "bcd"], "encoder_no_repeat_ngram_size": 1},
    ]
    expected = [t5.generate(texts, max_new_tokens=9, **case) for case in cases]
    calls.clear()
    encoded = t5.encode(texts)
    assert [t5.generate(encoded, max_new_tokens=9, **case) for case in cases] == expected
    one = t5.encode("hello")
    assert "".join(t5.stream(one, max_new_tokens=9)) == expected[0][0]
    t5.generate_ids(one, max_new_tokens=9, return_token_scores=True, return_cross_attention=True)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
    ids=str,
)
def test_token_scores_are_those_of_the_model(options):
    t5 = shared_text2text()
    inputs = random_ids(0, 3, 9)
    inputs[1, 4:] = 0
    result = t5.generate_ids(
        inputs,
        max_new_tokens=8,
        eos_token_id=[1, *range(300, 340)],
        suppress_tokens=[0],
        return_token_scores=True,
        **options,
    )
    assert result.token_scores.shape == result.ids.shape
    assert result.token_scores.dtype == np.float32
    rows = result.ids.reshape(-1, result.ids.shape[-1])
    prefix = np.pad(rows[:, :-1], ((0, 0), (1, 0)))
    logits = np.asarray(t5.logits(np.repeat(inputs, len(rows) // 3, axis=0), prefix), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(log_p, rows[..., None], -1)[..., 0].reshape(result.ids.shape)
    there = np.arange(rows.shape[1]) < result.lengths[..., None]
    np.testing.assert_allclose(result.token_scores, np.where(there, expected, 0), atol=1e-4)
    if "num_beams" not in options:
        np.testing.assert_allclose(result.token_scores.sum(-1), result.scores, atol=1e-4)


def test_cross_attention_equals_transformers():
    from tests.support.generation import RAGGED, pair, torch

    model, t5 = pair(1)
    result = t5.generate_ids(RAGGED, max_new_tokens=6, return_cross_attention=True)
    with torch.no_grad():
        prefix = np.pad(result.ids[:, 0, :-1], ((0, 0), (1, 0))).astype(np.int64)
        model.set_attn_implementation("eager")  # another one keeps no weights
        theirs = model(
            torch.tensor(RAGGED),
            attention_mask=torch.tensor(RAGGED != 0),
            decoder_input_ids=torch.tensor(prefix),
            output_attentions=True,
        ).cross_attentions
        model.set_attn_implementation("sdpa")
    expected = np.stack([layer.numpy() for layer in theirs], 1)  # [B, L, N, T, S]
    ours = result.cross_attention[:, 0]
    assert ours.shape[1:] == (2, 4, result.ids.shape[-1], RAGGED.shape[1])
    there = np.arange(result.ids.shape[-1]) < result.lengths
    where = there[:, None, None, :, None]
    np.testing.assert_allclose(np.where(where, ours, 0), np.where(where, expected, 0), atol=1e-5)
    np.testing.assert_allclose(
        ours.sum(-1), np.broadcast_to(there[:, None, None], ours.shape[:-1]), atol=1e-5
    )


@pytest.mark.parametrize("more", [{"num_beams": 3}, {"do_sample": True}], ids=str)
def test_cross_attention_of_several_outputs_is_that_of_each(more):
    """Forced to begin with an output, an input looks where it did when that was decided."""
    t5 = shared_text2text()
    inputs = random_ids(3, 2, 9)
    inputs[1, 4:] = 0
    result = t5.generate_ids(
        inputs,
        num_return_sequences=2,
        max_new_tokens=6,
        decoder_prefix=[[9], [7, 8]],
        return_cross_attention=True,
        **more,
    )
    for i, n in np.ndindex(2, 2):
        given = result.ids[i, n, : result.lengths[i, n]].tolist()
        alone = t5.generate_ids(
            inputs[i : i + 1],
            max_new_tokens=1,
            decoder_prefix=[given],
            return_cross_attention=True,
        ).cross_attention[0, 0, :, :, : len(given)]
        found = result.cross_attention[i, n, :, :, : len(given)]
        np.testing.assert_allclose(found, alone, atol=1e-5)
        assert (result.cross_attention[i, n, :, :, len(given) :] == 0).all()


def test_scores_of_targets_are_sums_of_steps_in_any_batch():
    """Scoring, batched and padded, against one step after another."""
    t5 = shared_text2text()
    inputs, targets = random_ids(0, 5, 12), random_ids(1, 5, 9)
    for i in range(5):
        inputs[i, 12 - 2 * i :] = 0
        targets[i, 9 - i :] = 0
    scores = t5.score_ids(inputs, targets, batch_size=2)
    for i in (0, 3):
        ids = targets[i][targets[i] != 0]
        stepped = t5.generate_ids(
            inputs[i : i + 1], max_new_tokens=len(ids), logits_processor=only_these(ids)
        )
        np.testing.assert_array_equal(stepped.ids[0, 0], ids)
        np.testing.assert_allclose(stepped.scores[0, 0], scores[i], atol=1e-4)


def only_these(ids):
    """A logits processor that allows one id at each step."""
    table = jnp.asarray([*ids, 0])

    def allow(so_far, logits):
        at = jnp.sum(so_far >= 0, axis=1) - 1
        return jnp.where(jnp.arange(logits.shape[1]) == table[at][:, None], logits, -jnp.inf)

    return allow
