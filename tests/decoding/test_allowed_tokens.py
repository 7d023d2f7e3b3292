"""`prefix_allowed_tokens_fn`: what a function allows is listed before decoding, and is a trie."""

import numpy as np
import pytest

from t5jax.bulk import generate_each
from tests.support.models import random_ids, shared_text2text

SETS = [[[5, 6], [5, 7, 8]], [[9], [9, 10]], [[5, 6], [5, 7, 8]]]


def allowing(sets, given=1):
    """The function that allows the answers of each input, after `given` ids."""

    def allowed(number, ids):
        so_far = ids.tolist()[given:]
        answers = sets[number % len(sets)]
        more = {a[len(so_far)] for a in answers if a[: len(so_far)] == so_far != a}
        return sorted(more | ({1} if so_far in answers else set())) or [0]

    return allowed


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 2}, pytest.param({"do_sample": True}, marks=pytest.mark.slow)],
    ids=str,
)
def test_each_input_gives_what_its_own_answers_give(options):
    t5 = shared_text2text()
    inputs = random_ids(0, 3, 8)
    inputs[1, 4:] = 0  # sorted by length, batches have other orders than calls
    options = {"max_new_tokens": 6, **options}
    result = t5.generate_ids(
        inputs, prefix_allowed_tokens_fn=allowing(SETS), batch_size=2, **options
    )
    for i, answers in enumerate(SETS):
        alone = t5.generate_ids(inputs[i : i + 1], answers=answers, **options)
        width = alone.ids.shape[2]
        np.testing.assert_array_equal(result.ids[i, :, :width], alone.ids[0])
        np.testing.assert_allclose(result.scores[i], alone.scores[0], rtol=1e-4)


def test_prefixes_streams_and_files_have_it_too():
    t5 = shared_text2text()
    words = [[t5.vocabulary.encode(w) for w in ("yes", "no")], [t5.vocabulary.encode("other")]]
    assert t5.generate(["a", "b"], prefix_allowed_tokens_fn=allowing(words))[1] == "other"
    texts = list(
        generate_each(t5, list("abcd"), prefix_allowed_tokens_fn=allowing(words), window=2)
    )
    assert texts[1::2] == ["other"] * 2 and set(texts[::2]) <= {"yes", "no"}
    given = len(t5.vocabulary.encode("say "))
    options = {"prefix_allowed_tokens_fn": allowing(words, 1 + given), "decoder_prefix": "say "}
    assert t5.generate(["a"], **options)[0] in ("say yes", "say no")
    assert "".join(t5.stream("a", **options)) in ("say yes", "say no")


def fails(number, ids):
    return ids.nothing


REFUSED = [
    (3, "prefix_allowed_tokens_fn=3 must be a function"),
    (lambda number, ids: [], r"allows nothing for input 0 after \[0\]; give at least an EOS"),
    (lambda number, ids: "ab", "gives 'ab' for input 0 .* it must give ids"),
    (lambda number, ids: [384], "allows id 384 .* ids 0 to 383"),
    (lambda number, ids: range(3, 300), "more than 100,000 beginnings .* give a logits_processor"),
    (fails, r"prefix_allowed_tokens_fn: .*test_allowed_tokens.py, line \d+, in fails"),
]


@pytest.mark.parametrize(("function", "words"), REFUSED)
def test_a_function_that_cannot_be_followed_is_refused(function, words):
    with pytest.raises(ValueError, match=words):
        shared_text2text().generate("a", prefix_allowed_tokens_fn=function)


def test_one_way_to_say_what_an_output_holds_is_enough():
    with pytest.raises(ValueError, match="answers and prefix_allowed_tokens_fn both"):
        shared_text2text().generate("a", prefix_allowed_tokens_fn=allowing(SETS), answers=[[5]])


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 4])
def test_it_equals_transformers(beams):
    from tests.support.generation import RAGGED, assert_same, ours, pair, theirs

    rng = np.random.default_rng(0)
    sets = [[rng.integers(5, 9, n).tolist() for n in rng.integers(1, 6, 40)] for _ in RAGGED]
    for seed in range(4):
        model, t5 = pair(seed)
        expected = theirs(model, RAGGED, num_beams=beams, prefix_allowed_tokens_fn=allowing(sets))
        result = ours(t5, RAGGED, num_beams=beams, prefix_allowed_tokens_fn=allowing(sets))
        assert_same(result, expected)
