"""Operations with gradients of their own have JAX's values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.ops import gradients
from t5jax.ops.gradients import add_bias, project


@pytest.mark.parametrize("one_cpu", [True, False])
@pytest.mark.parametrize(
    ("x", "w", "contracted"),
    [((2, 5, 8), (8, 3, 4), 1), ((2, 5, 3, 4), (3, 4, 8), 2), ((7, 6), (6, 9), 1)],
)
def test_a_projection_has_the_gradients_of_its_formula(x, w, contracted, one_cpu, monkeypatch):
    monkeypatch.setattr(gradients, "on_one_cpu", lambda: one_cpu)
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x, w))
    check(
        lambda x, w: project(x, w, contracted),
        lambda x, w: jnp.tensordot(x, w, contracted),
        x, w,
    )  # fmt: skip


def test_an_added_bias_has_the_gradients_of_a_sum():
    rng = np.random.default_rng(1)
    logits, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 2, 5, 7), (2, 5, 7))
    )
    check(add_bias, jnp.add, logits, bias)


def check(ours, formula, *args):
    found, turned = jax.vjp(jax.jit(lambda *args: ours(*args)), *args)
    expected, back = jax.vjp(formula, *args)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    ct = jnp.cos(expected)
    for mine, theirs in zip(turned(ct), back(ct), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
