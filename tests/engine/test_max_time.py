"""`max_time` ends a batch where it stands; what is decided is the output."""

import numpy as np
import pytest

from t5jax.bulk import generate_each
from t5jax.engine.decoder import LOOK
from tests.support.models import random_ids, shared_text2text

INPUTS = random_ids(0, 2, 8)
AT_ONCE, NEVER = 1e-9, 1e6
LONG = {"max_new_tokens": 20, "min_new_tokens": 20}


def generate(**options):
    return shared_text2text().generate_ids(INPUTS, **{**LONG, **options})


@pytest.mark.parametrize("options", [{}, pytest.param({"do_sample": True}, marks=pytest.mark.slow)])
def test_what_is_decided_when_time_is_over_is_the_output(options):
    whole = generate(**options)
    cut = generate(max_time=AT_ONCE, **options)
    assert cut.lengths.tolist() == [[LOOK]] * 2
    np.testing.assert_array_equal(cut.ids, whole.ids[:, :, :LOOK])
    late = generate(max_time=NEVER, **options)
    np.testing.assert_array_equal(late.ids, whole.ids)
    np.testing.assert_allclose(late.scores, whole.scores, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"brevity_penalty": 0.6}, marks=pytest.mark.slow)], ids=str
)
def test_a_search_that_is_cut_gives_what_one_of_that_length_gives(options):
    options = {"num_beams": 3, "num_return_sequences": 3, "min_new_tokens": LOOK, **options}
    cut = generate(max_time=AT_ONCE, **options)
    short = generate(**{**options, "max_new_tokens": LOOK})
    np.testing.assert_array_equal(cut.ids, short.ids)
    np.testing.assert_allclose(cut.scores, short.scores, rtol=1e-5)
    late, whole = generate(max_time=NEVER, **options), generate(**options)
    np.testing.assert_array_equal(late.ids, whole.ids)


@pytest.mark.slow
def test_a_search_for_phrases_that_is_cut_gives_only_what_holds_them():
    options = {"num_beams": 2, "min_new_tokens": 0, "max_time": AT_ONCE}
    short = generate(force_words_ids=[[50, 51]], **options)
    assert all({50, 51} <= set(row) for row in short.ids[:, 0].tolist())
    long = generate(force_words_ids=[list(range(50, 60))], **options)
    assert long.lengths.tolist() == [[0]] * 2 and (long.scores == -np.inf).all()


def test_streams_and_files_stop_too():
    t5 = shared_text2text()
    cut = "".join(t5.stream("some text", max_time=AT_ONCE, **LONG))
    whole = t5.generate("some text", **LONG)
    assert len(cut) < len(whole) and whole.startswith(cut)
    (text,) = generate_each(t5, ["some text"], max_time=AT_ONCE, **LONG)
    assert len(text) < len(whole) and whole.startswith(text)


def test_a_time_that_cannot_be_kept_is_refused():
    t5 = shared_text2text()
    with pytest.raises(ValueError, match=r"max_time=0 must be more than 0"):
        t5.check_options({"max_time": 0})
    with pytest.raises(ValueError, match=r"max_time=1.0 cannot be kept with an assistant_model"):
        t5.check_options({"max_time": 1}, assistant_model=t5)
