"""Decoding with an assistant: nothing but the number of passes changes."""

import numpy as np
import pytest

import t5jax
from t5jax.bulk import generate_each
from t5jax.cli import main
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary
from tests.support.models import (
    TINY,
    lively_params,
    random_ids,
    serve,
    serving,
    serving_params,
    tiny_text2text,
)

SMALLER = TINY.replace(num_layers=1, num_decoder_layers=1, d_ff=24, dropout=0.0)
OPTIONS = [
    {},
    {"num_assistant_tokens": 1, "min_new_tokens": 5},
    {"num_assistant_tokens": 12, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    {"do_sample": True, "seed": 3, "num_return_sequences": 2, "temperature": 0.7},
    {"answers": ["yes", "yesterday", "no"], "num_assistant_tokens": 3},
    {"stop_strings": ["e", "t", "9"], "eos_token_id": [1, *range(200, 230)]},
]


def assistant(seed: int = 1) -> Text2Text:
    return Text2Text(SMALLER, lively_params(SMALLER, seed), ByteVocabulary())


@pytest.mark.parametrize(
    "options",
    [*OPTIONS[:4], *(pytest.param(x, marks=pytest.mark.slow) for x in OPTIONS[4:])],
    ids=str,
)
@pytest.mark.parametrize("rows", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_output_is_that_of_the_model_alone(options, rows):
    t5 = tiny_text2text()
    inputs = random_ids(rows, rows, 9)
    prefix = [[7, 8, 9][:i] for i in range(rows)]
    call = {"max_new_tokens": 20, "decoder_prefix": prefix, **options}
    alone = {k: v for k, v in call.items() if k != "num_assistant_tokens"}
    expected = t5.generate_ids(inputs, **alone)
    for other in (assistant(), t5):
        found = t5.generate_ids(inputs, assistant_model=other, **call)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.lengths, expected.lengths)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        assert 0 <= found.guesses.right <= found.guesses.made


def test_an_assistant_that_is_the_model_is_always_right():
    t5 = tiny_text2text()
    inputs = random_ids(0, 1, 9)
    # 18 ids: three rounds of five guesses and one id more.
    result = t5.generate_ids(
        inputs, assistant_model=t5, max_new_tokens=18, min_new_tokens=18, num_assistant_tokens=5
    )
    assert result.guesses == (15, 15)
    wrong = t5.generate_ids(inputs, assistant_model=assistant(), max_new_tokens=18)
    assert wrong.guesses.right < wrong.guesses.made


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_several_steps_at_once_equal_teacher_forcing(rows):
    config = TINY.replace(relative_bias="per_layer")
    params, inputs, tokens = serving_params(config), random_ids(0, rows, 7), random_ids(1, rows, 8)
    segments = np.ones_like(inputs)
    hidden = serve(config, "encode")(params, inputs, segments)
    expected = serve(config, "decode")(params, hidden, segments, tokens)
    cache = serving(config).init_cache(rows, 10)
    cross_kv = serve(config, "cross_kv")(params, hidden)
    several, logits = serve(config, "decode_hidden_several"), serve(config, "logits")
    # The second pass begins where the first is right no longer, and writes over it.
    for first, last in ((0, 5), (3, 8)):
        x, cache = several(
            params, tokens[:, first:last], cross_kv, segments > 0, cache, np.int32(first)
        )
        np.testing.assert_allclose(logits(params, x), expected[:, first:last], atol=1e-4)


def test_files_and_the_command_line_take_an_assistant(tmp_path, capsys):
    t5 = tiny_text2text()
    t5.save(tmp_path / "large")
    assistant().save(tmp_path / "small")
    texts = ["one", "two words", ""]
    expected = t5.generate(texts, max_new_tokens=9)
    assert list(generate_each(t5, texts, assistant_model=assistant(), max_new_tokens=9)) == expected
    main(["generate", str(tmp_path / "large"), *texts, "--max_new_tokens", "9",
          "--assistant_model", str(tmp_path / "small")])  # fmt: skip
    out, err = capsys.readouterr()
    assert out.splitlines() == [" ".join(text.splitlines()) for text in expected]
    assert "guesses were right" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 2}, "num_beams=2 cannot be assisted"),
        ({"num_assistant_tokens": 0}, "num_assistant_tokens=0 must be at least 1"),
        ({"assistant_model": None, "num_assistant_tokens": 3}, "needs an assistant_model"),
    ],
)
def test_what_cannot_be_assisted_is_refused(options, words):
    t5 = tiny_text2text()
    with pytest.raises(ValueError, match=words):
        t5.generate("x", **{"assistant_model": assistant(), **options})


def test_an_assistant_has_the_same_ids():
    config = SMALLER.replace(vocab_size=400)
    other = t5jax.Text2Text(config, lively_params(config), ByteVocabulary())
    with pytest.raises(ValueError, match="400 ids and padding 0, the model 384"):
        tiny_text2text().generate("x", assistant_model=other)
