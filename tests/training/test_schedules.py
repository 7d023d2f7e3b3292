"""Learning rates at chosen steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.config import OptimizerConfig
from t5jax.training.schedules import make_schedule


def rates(at, steps=100, **fields):
    schedule = make_schedule(OptimizerConfig(**fields), steps)
    return np.array([schedule(step) for step in at])


def test_the_default_is_the_schedule_of_t5():
    at = [0, 1, 9_999, 10_000, 40_000, 1_000_000]
    expected = [1 / np.sqrt(max(step, 1e4)) for step in at]
    np.testing.assert_allclose(rates(at, steps=1_000_000), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("constant", [0, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ("linear", [0, 0.25, 0.5, 0.4, 0.3, 0.1, 0.1]),
        ("cosine", [0, 0.25, 0.5, 0.1 + 0.2 * (1 + np.sqrt(0.5)), 0.3, 0.1, 0.1]),
    ],
)
def test_rise_over_the_warmup_then_fall_to_the_final_fraction(name, expected):
    at = [0, 10, 20, 40, 60, 100, 200]
    fields = {"schedule": name, "learning_rate": 0.5, "warmup": 20, "final_fraction": 0.2}
    np.testing.assert_allclose(rates(at, **fields), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name, last", [("inverse_sqrt", 0.05), ("constant", 0.5), ("linear", 0), ("cosine", 0)]
)
def test_without_a_warmup_the_first_rate_is_the_highest(name, last):
    first, end = rates([0, 100], schedule=name, learning_rate=0.5, warmup=0)
    np.testing.assert_allclose([first, end], [0.5, last], atol=1e-7)


@pytest.mark.parametrize("name", ["inverse_sqrt", "constant", "linear", "cosine"])
def test_a_traced_step_gives_the_same_float32_scalar(name):
    schedule = make_schedule(OptimizerConfig(schedule=name, warmup=10), 50)
    for step in (0, 3, 10, 49):
        plain, traced = schedule(step), jax.jit(schedule)(jnp.int32(step))
        assert plain.shape == traced.shape == ()
        assert plain.dtype == traced.dtype == jnp.float32
        np.testing.assert_allclose(plain, traced, rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_warmup_may_fill_the_run_but_not_exceed_it(name):
    fields = {"schedule": name, "learning_rate": 1.0}
    np.testing.assert_allclose(rates([50, 99], warmup=100, **fields), [0.5, 0.99], rtol=1e-6)
    with pytest.raises(ValueError, match=r"warmup=101 .* steps=100"):
        rates([0], warmup=101, **fields)


@pytest.mark.parametrize("name", ["constant", "inverse_sqrt"])
def test_schedules_that_do_not_end_accept_a_warmup_longer_than_the_run(name):
    assert rates([99], schedule=name, learning_rate=1.0, warmup=200)[0] > 0


@pytest.mark.parametrize("name", ["inverse_sqrt", "constant", "linear", "cosine"])
def test_an_offset_goes_on_where_another_run_ended(name):
    fields = {"schedule": name, "learning_rate": 0.5, "warmup": 20}
    whole = rates(range(40, 100), steps=100, **fields)
    np.testing.assert_array_equal(rates(range(60), steps=60, step_offset=40, **fields), whole)


def test_fine_tuning_goes_on_with_the_rate_of_pre_training():
    # T5's own: 1 / sqrt(step) after 2^19 steps of pre-training.
    np.testing.assert_allclose(rates([0], step_offset=2**19), [2**-9.5], rtol=1e-6)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'sawtooth'"):
        make_schedule(OptimizerConfig(schedule="sawtooth"), 20_000)
