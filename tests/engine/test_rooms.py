"""The cache that grows with the output: room for more is made when it is used up."""

import numpy as np
import pytest

from t5jax.engine import buckets, programs
from tests.support.models import random_ids, shared_text2text

OPTIONS = {
    "no 2-gram twice": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "sampling": {"do_sample": True, "num_return_sequences": 2, "seed": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beams of T5X": {"num_beams": 2, "brevity_penalty": 0.6},
    "given beginnings": {"decoder_prefix": [[7, 8, 9], [5], list(range(3, 14))]},
}
SLOW = {"sampling", "beams of T5X"}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in OPTIONS]
)
def test_what_is_decoded_does_not_depend_on_the_rooms(name, monkeypatch):
    t5 = shared_text2text()
    inputs = random_ids(4, 3, 10)
    options = {"max_new_tokens": 27, "min_new_tokens": 20, "return_token_scores": True}
    options.update(OPTIONS[name])
    results = []
    for rooms in ((), (8, 16)):
        monkeypatch.setattr(buckets, "ROOMS", rooms)
        results.append(t5.generate_ids(inputs, **options))
    one, several = results
    assert one.lengths.min() > 16
    np.testing.assert_array_equal(several.ids, one.ids)
    np.testing.assert_array_equal(several.lengths, one.lengths)
    np.testing.assert_allclose(several.scores, one.scores, rtol=1e-5)
    np.testing.assert_allclose(several.token_scores, one.token_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_programs_with_more_room_run_only_when_it_is_needed(beams, monkeypatch):
    real, rooms = programs.decode, []

    def watched(*args, room, **options):
        rooms.append(room)
        return real(*args, room=room, **options)

    monkeypatch.setattr(programs, "decode", watched)
    monkeypatch.setattr(buckets, "ROOMS", (8, 16, 32, 64))
    t5 = shared_text2text()
    for tokens, expected in ((8, [8]), (9, [8, 16]), (17, [8, 16, 32])):
        result = t5.generate_ids(
            random_ids(4, 2, 10), max_new_tokens=tokens, min_new_tokens=tokens, num_beams=beams
        )
        assert result.lengths.tolist() == [[tokens], [tokens]]
        assert rooms == expected
        rooms.clear()


def test_a_stream_makes_room_as_it_goes(monkeypatch):
    t5 = shared_text2text()
    real, rooms = programs.extend, []
    monkeypatch.setattr(programs, "extend", lambda s, room: rooms.append(room) or real(s, room))
    for tokens, expected in ((8, []), (21, [16, 32])):
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        monkeypatch.setattr(buckets, "ROOMS", ())
        whole = t5.generate("hello", **options)
        monkeypatch.setattr(buckets, "ROOMS", (8, 16))
        assert "".join(t5.stream("hello", **options)) == whole != ""
        assert rooms == expected
        rooms.clear()


@pytest.mark.parametrize("beams", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_outputs_past_several_rooms_equal_transformers(beams, monkeypatch):
    from tests.support.generation import EVEN, compare

    monkeypatch.setattr(buckets, "ROOMS", (64, 128, 256))
    lengths = compare(EVEN[:2], models=1, max_new_tokens=150, min_new_tokens=135, num_beams=beams)
    assert lengths.min() > 2 * buckets.ROOMS[0]
