"""What a notebook shows of a model: its `repr`, its help, progress, one vector an input."""

import dataclasses
import io
import sys

import numpy as np
import pytest

from t5jax.bulk import generate_each
from t5jax.decoding.options import GenerationOptions
from t5jax.engine import progress
from t5jax.text2text import Text2Text
from tests.support.models import TINY, random_ids, shared_text2text


def test_repr_says_what_is_held_and_where():
    t5 = shared_text2text()
    lines = repr(t5).splitlines()
    assert lines[0] == "Text2Text: t5" and len(lines) == 5
    for word in (f"width {TINY.d_model}", f"heads {TINY.num_heads}", "2 layers of the encoder"):
        assert word in lines[1]
    assert "float32, not quantized" in lines[2] and "ByteVocabulary of 384 ids" in lines[3]
    assert "int8 but for the head" in repr(t5.quantize("int8", head=False))
    assert "no vocabulary" in repr(Text2Text(TINY, t5.params, None))


@pytest.mark.parametrize("name", ["generate", "generate_ids", "stream"])
def test_help_lists_every_option_with_its_default_and_meaning(name):
    text = " ".join(getattr(Text2Text, name).__doc__.split())
    for field in dataclasses.fields(GenerationOptions):
        assert f"{field.name}={field.default!r}: {field.metadata['help']}" in text
    assert "top_k=50: sample among the k likeliest ids; 0: all ids (at least 0)" in text


class Terminal(io.StringIO):
    def isatty(self):
        return True


CALLS = {
    "generate": lambda t5, **more: t5.generate(["a", "b", "c"], max_new_tokens=2, **more),
    "score": lambda t5, **more: t5.score(["a", "b", "c"], ["d", "e", "f"], **more),
    "bulk": lambda t5, **more: list(generate_each(t5, ["a", "b", "c"], max_new_tokens=2, **more)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_progress_is_shown_on_a_terminal_and_nowhere_else(call, monkeypatch):
    t5 = shared_text2text()
    assert progress.DELAY == 2
    for stream, seconds, more in (
        (Terminal(), 1000, {}),  # not over by then
        (io.StringIO(), 0, {}),
        (Terminal(), 0, {"progress": False}),
    ):
        monkeypatch.setattr(progress, "DELAY", seconds)
        monkeypatch.setattr(sys, "stderr", stream)
        call(t5, **more)
        assert stream.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "DELAY", 0)
    call(t5)
    assert "0/3" in sys.stderr.getvalue()


def test_pooled_is_the_mean_over_an_inputs_tokens_in_any_batch():
    t5 = shared_text2text()
    ids = random_ids(0, 3, 9)
    ids[1, 4:] = 0
    encoded = t5.encode_ids(ids)
    hidden = np.asarray(encoded.hidden)
    expected = [hidden[0, :9].mean(0), hidden[1, :4].mean(0), hidden[2, :9].mean(0)]
    assert encoded.pooled.dtype == np.float32
    np.testing.assert_allclose(encoded.pooled, expected, atol=1e-5)
    alone = t5.encode_ids(ids[1:2, :4]).pooled
    np.testing.assert_allclose(encoded.pooled[1:2], alone, atol=1e-5)
    assert np.asarray(t5.encode_ids(np.zeros((1, 3), int)).pooled).tolist() == [
        [0.0] * TINY.d_model
    ]
