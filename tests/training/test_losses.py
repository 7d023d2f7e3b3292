"""The loss against float64 formulas and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5jax.training.losses import LossSums
from t5jax.training.losses import loss_sums as eager_loss_sums

loss_sums = jax.jit(eager_loss_sums, static_argnames="label_smoothing")


def example(b=2, t=3, v=11, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(b, t, v)) * scale).astype(np.float32)
    targets = rng.integers(0, v, (b, t), np.int32)
    weights = (rng.integers(0, 3, (b, t)) * 0.5).astype(np.float32)
    return logits, targets, weights


def naive(logits, targets, weights, smoothing, z_loss, xp=np):
    """The definition, with soft targets written out."""
    v = logits.shape[-1]
    log_z = xp.log(xp.sum(xp.exp(logits), axis=-1))
    log_p = logits - log_z[..., None]
    soft = xp.where(np.arange(v) == targets[..., None], 1 - smoothing, smoothing / (v - 1))
    entropy = -(1 - smoothing) * np.log(1 - smoothing)
    entropy -= smoothing * np.log(smoothing / (v - 1)) if smoothing else 0
    z = z_loss * log_z**2
    nll = -xp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    return LossSums(
        objective=xp.sum(weights * (-xp.sum(soft * log_p, axis=-1) - entropy + z)),
        nll=xp.sum(weights * nll),
        z_loss=xp.sum(weights * z),
        correct=xp.sum(weights * (xp.argmax(logits, axis=-1) == targets)),
        weight=xp.sum(weights),
    )


# Few shapes, since each is compiled; many numbers.
@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(1, 1, 2), (3, 2, 301)]),
    seed=st.integers(0, 1000),
    scale=st.just(0.0) | st.floats(1e-6, 20.0),  # XLA takes subnormal logits for 0: a tie
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    z_loss=st.floats(0.0, 0.1),
)
def test_sums_equal_the_definition_in_float64(shape, seed, scale, smoothing, z_loss):
    logits, targets, weights = example(*shape, seed, scale)
    ours = loss_sums(logits, targets, weights, label_smoothing=smoothing, z_loss=z_loss)
    theirs = naive(logits.astype(np.float64), targets, weights, smoothing, z_loss)
    for name, value in vars(theirs).items():
        mine = getattr(ours, name)
        assert mine.shape == () and mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_unsmoothed_objective_equals_optax():
    logits, targets, weights = example(v=97)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    ours = loss_sums(logits, targets, weights)
    np.testing.assert_allclose(ours.objective, (losses * weights).sum(), rtol=1e-6)
    np.testing.assert_allclose(ours.nll, ours.objective)


def test_smoothed_objective_equals_optax_less_the_entropy():
    logits, targets, weights = example(v=97)
    soft = np.where(np.arange(97) == targets[..., None], 0.9, 0.1 / 96)
    losses = optax.softmax_cross_entropy(logits, soft)
    least = optax.softmax_cross_entropy(np.log(soft), soft)
    ours = loss_sums(logits, targets, weights, label_smoothing=0.1).objective
    np.testing.assert_allclose(ours, ((losses - least) * weights).sum(), rtol=1e-5)


def test_a_perfect_model_reaches_zero_with_smoothing_and_a_surer_one_does_not():
    v, smoothing = 32128, 0.1
    targets = np.arange(4, dtype=np.int32)[None] * 1000
    soft = np.where(np.arange(v) == targets[..., None], 1 - smoothing, smoothing / (v - 1))
    weights = np.ones(targets.shape, np.float32)
    perfect = np.log(soft).astype(np.float32)
    sums = loss_sums(perfect, targets, weights, label_smoothing=smoothing)
    np.testing.assert_allclose(sums.objective, 0, atol=1e-4)
    np.testing.assert_allclose(sums.nll, -4 * np.log(0.9), rtol=1e-4)
    surer = loss_sums(perfect * np.float32(1.2), targets, weights, label_smoothing=smoothing)
    assert surer.objective > 0.1


def test_gradient_equals_that_of_the_definition():
    logits, targets, weights = example(v=51)
    ours = jax.grad(
        lambda x: loss_sums(x, targets, weights, label_smoothing=0.1, z_loss=0.01).objective
    )(logits)
    with jax.enable_x64(True):
        wide = jnp.asarray(logits, jnp.float64)
        objective = jax.jit(lambda x: naive(x, targets, weights, 0.1, 0.01, jnp).objective)
        theirs = jax.grad(objective)(wide)
        assert theirs.dtype == jnp.float64
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_tokens_of_weight_zero_contribute_nothing():
    logits, targets, _ = example(b=1, t=3)
    weights = np.array([[1, 0, 1]], np.float32)

    def objective(x):
        return loss_sums(x, targets, weights, label_smoothing=0.1, z_loss=0.1).objective

    gradient = np.asarray(jax.grad(objective)(logits))
    assert not gradient[0, 1].any() and gradient[0, 0].any() and gradient[0, 2].any()
    kept = [0, 2]
    expected = loss_sums(logits[:, kept], targets[:, kept], weights[:, kept])
    for name, value in vars(loss_sums(logits, targets, weights)).items():
        np.testing.assert_allclose(value, getattr(expected, name), rtol=1e-6, err_msg=name)


def test_large_logits_neither_overflow_nor_lose_the_loss():
    logits = np.array([[[1e4, 1e4 - 1, -1e4]]], np.float32)
    sums = loss_sums(logits, np.array([[1]], np.int32), np.ones((1, 1), np.float32))
    np.testing.assert_allclose(sums.nll, np.log1p(np.e), rtol=1e-3)


def test_of_equal_logits_only_the_first_is_correct_and_nan_never_is():
    targets = np.array([[0, 1, 2, 0]], np.int32)
    logits = np.zeros((1, 4, 3), np.float32)
    logits[0, 3] = np.nan
    each = [
        float(loss_sums(logits, targets, np.eye(4, dtype=np.float32)[None, i]).correct)
        for i in range(3)
    ]
    assert each == [1, 0, 0]
    last = loss_sums(logits[:, 3:], targets[:, 3:], np.ones((1, 1), np.float32))
    assert last.correct == 0 and jnp.isnan(last.nll)


def test_sums_of_parts_add_up_to_the_whole():
    logits, targets, weights = example(b=4)
    whole = loss_sums(logits, targets, weights, z_loss=0.1)
    parts = [loss_sums(logits[i], targets[i], weights[i], z_loss=0.1) for i in ([0, 1], [2, 3])]
    for name, value in vars(parts[0] + parts[1]).items():
        np.testing.assert_allclose(value, getattr(whole, name), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_outside_zero_to_one_is_refused(smoothing):
    with pytest.raises(ValueError, match=f"label_smoothing={smoothing}"):
        eager_loss_sums(*example(), label_smoothing=smoothing)
