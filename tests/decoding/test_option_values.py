"""What options may be: any value of any type is taken as it is, or refused by its name."""

import argparse
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5jax.cli import main
from t5jax.cli.arguments import add_arguments
from t5jax.decoding.options import GenerationOptions
from t5jax.formats import generation_defaults
from tests.support.models import TINY

HUGE = 10**30
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([HUGE, -HUGE, 10**400, 2**31, "\ud800", b"ab", 1e39, 1e-60, 1j])
    | st.sampled_from([object(), np.nan, np.float64("inf"), np.int64(2), np.array([[1, 2]]), len])
)
VALUES = st.recursive(
    SCALARS,
    lambda some: (
        st.lists(some, max_size=3)
        | st.tuples(some, some)
        | st.dictionaries(st.integers(0, 3) | st.text(max_size=2), some, max_size=2)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(GenerationOptions.names()), VALUES)
def test_a_value_of_any_type_is_taken_or_refused_by_name(name, value):
    more = {"num_beams": 2} if name != "num_beams" else {}
    try:
        options = GenerationOptions(**{**more, name: value})
    except ValueError as error:
        assert name in str(error) and len(str(error)) < 400
        assert "'utf-8' codec" not in str(error)
    else:
        hash(options)
        assert dataclasses.replace(options) == options  # what was read is read as itself


@pytest.mark.parametrize("name", ["num_beam", "num-beams", "max_new_token"])
def test_an_option_is_not_abbreviated_and_a_near_one_is_named(capsys, name):
    with pytest.raises(SystemExit):
        main(["generate", "nowhere", "x", f"--{name}=2"])
    assert "did you mean --" in capsys.readouterr().err


def test_the_help_says_how_several_outputs_are_divided(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "TAB" in capsys.readouterr().out


def test_a_checkpoints_file_says_them_as_transformers_writes_them():
    fields = {
        "begin_suppress_tokens": [5, 6],
        "sequence_bias": [[[7, 8], -1.5], [[9], 2]],
        "exponential_decay_length_penalty": [4, 1.1],
        "renormalize_logits": True,
        "eta_cutoff": 0.002,
        "do_sample": True,
        "max_time": 2,
    }
    options = GenerationOptions(**fields)
    assert generation_defaults.read(fields, TINY, None) == options
    written = json.loads(json.dumps(generation_defaults.write(fields, TINY, None)))
    assert generation_defaults.read(written, TINY, None) == options
    for name in fields:
        assert json.loads(json.dumps(fields[name])) == written[name]


def test_the_command_line_says_them_in_words(tmp_path, capsys):
    words = """--force_words_ids 5,6|7 --force_words_ids 8 --num_beams 3 --sequence_bias 5,6=-1.5
        --exponential_decay_length_penalty 4,1.1 --max_time 0.5""".split()
    parser = argparse.ArgumentParser()
    add_arguments(parser, GenerationOptions)
    options = GenerationOptions().replace(vars(parser.parse_args(words)))
    assert options == GenerationOptions(
        force_words_ids=[[[5, 6], [7]], [8]],
        num_beams=3,
        sequence_bias={(5, 6): -1.5},
        exponential_decay_length_penalty=(4, 1.1),
        max_time=0.5,
    )
    for word in ("5,6", "5=", "=1", "a=b"):
        with pytest.raises(SystemExit):
            main(["generate", str(tmp_path), "x", "--sequence_bias", word])
        assert "must be IDS=NUMBER" in capsys.readouterr().err
