"""Whole optimizers: weight decay and its groups, clipping, and the axes of their state."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from t5jax.config import OptimizerConfig
from t5jax.training.adafactor import AdafactorState
from t5jax.training.optimizers import make_optimizer, optimizer_state_axes
from t5jax.training.schedules import make_schedule

AXES = {
    "embedding": P("vocab", "embed"),
    "query": P("layers", "embed", "heads", "kv"),
    "norm": P("embed"),
    "norms": P("layers", "embed"),
    "bias": P("heads", "relpos_buckets"),
    "biases": P("layers", "heads", "relpos_buckets"),
}
SIZES = {"layers": 2, "embed": 4, "heads": 3, "kv": 2, "vocab": 7, "relpos_buckets": 5}
DECAYED = {"embedding": True, "query": True} | dict.fromkeys(
    ["norm", "norms", "bias", "biases"], False
)
STEPS = 10


def tree(seed):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=[SIZES[axis] for axis in axes]).astype(np.float32)
        for name, axes in AXES.items()
    }


def run(optimizer, params, gradients):
    @jax.jit
    def step(gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for gradient in gradients:
        params, state = step(gradient, state, params)
    return jax.device_get(params)


def config(name, **fields):
    fields = {"schedule": "linear", "learning_rate": 0.1, "warmup": 2} | fields
    return OptimizerConfig(name=name, **fields)


def test_adamw_equals_that_of_optax():
    ours = config("adamw", weight_decay=0.3, b1=0.8, b2=0.95, epsilon=1e-3)
    theirs = optax.adamw(
        make_schedule(ours, STEPS), 0.8, 0.95, 1e-3, weight_decay=0.3, mask=DECAYED
    )
    gradients = [tree(seed) for seed in range(1, 6)]
    expected = run(theirs, tree(0), gradients)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        run(make_optimizer(ours, AXES, STEPS, no_decay={"relpos_buckets"}), tree(0), gradients),
        expected,
    )


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_only_matrices_decay_and_by_rate_times_decay(name):
    fields = config(name, schedule="constant", warmup=0, learning_rate=0.1, weight_decay=0.2)
    still = jax.tree.map(np.zeros_like, tree(0))
    params = run(
        make_optimizer(fields, AXES, STEPS, no_decay={"relpos_buckets"}), tree(0), [still, still]
    )
    for leaf, decays in DECAYED.items():
        factor = (1 - 0.1 * 0.2) ** 2 if decays else 1.0
        np.testing.assert_allclose(params[leaf], factor * tree(0)[leaf], rtol=1e-6, err_msg=leaf)


def test_a_step_of_adafactor_is_the_rate_times_the_parameters_size():
    fields = config("adafactor", schedule="constant", warmup=0, learning_rate=0.01)
    before = tree(0)
    after = run(make_optimizer(fields, AXES, STEPS, no_decay={"relpos_buckets"}), before, [tree(1)])
    # At its first step an unfactored parameter moves by the sign of its gradient.
    size = np.sqrt(np.mean(np.square(before["norm"])))
    np.testing.assert_allclose(
        after["norm"] - before["norm"], -0.01 * size * np.sign(tree(1)["norm"]), rtol=1e-4
    )


def test_clipping_bounds_the_global_norm_and_spares_small_gradients():
    def clipped(gradient):
        # With so large an epsilon, Adam's first step is the gradient over epsilon.
        fields = config(
            "adamw", schedule="constant", warmup=0, learning_rate=1e4, epsilon=1e4, clip_norm=1.0
        )
        still = jax.tree.map(np.zeros_like, tree(0))
        return run(
            make_optimizer(fields, AXES, STEPS, no_decay={"relpos_buckets"}), still, [gradient]
        )

    large = tree(1)
    norm = optax.tree.norm(large)
    assert norm > 2
    small = jax.tree.map(lambda g: g / np.float32(4 * norm), large)
    np.testing.assert_allclose(optax.tree.norm(clipped(large)), 1.0, rtol=1e-3)
    np.testing.assert_allclose(optax.tree.norm(clipped(small)), 0.25, rtol=1e-3)


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
@pytest.mark.parametrize("fields", [{}, {"weight_decay": 0.1, "clip_norm": 1.0}])
def test_state_axes_name_each_dimension_of_the_state(name, fields):
    fields = config(name, min_factored=4, **fields)
    optimizer = make_optimizer(fields, AXES, STEPS, no_decay={"relpos_buckets"})
    state = jax.eval_shape(optimizer.init, tree(0))
    axes = optimizer_state_axes(optimizer, fields, AXES, jax.eval_shape(lambda: tree(0)))
    assert jax.tree.structure(axes) == jax.tree.structure(state)
    for names, leaf in zip(jax.tree.leaves(axes), jax.tree.leaves(state), strict=True):
        assert tuple(SIZES[axis] for axis in names) == leaf.shape
    moments = next(s for s in axes if isinstance(s, AdafactorState | optax.ScaleByAdamState))
    if name == "adafactor":
        assert moments.v_row["embedding"] == P("embed") and moments.v["norm"] == P("embed")
    else:
        assert moments.mu == moments.nu == AXES


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="'sgd'"):
        make_optimizer(config("sgd"), AXES, STEPS)
