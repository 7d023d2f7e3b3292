"""What options may be: any value of any type is taken as it is, or refused by its name."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5jax.cli import main
from t5jax.decoding.options import GenerationOptions

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
