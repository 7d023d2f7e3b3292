"""Layers apart in training are the same training as layers stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5jax.batch import Batch
from t5jax.config import MeshConfig, OptimizerConfig, RunConfig, TrainingConfig
from t5jax.model.t5.network import T5
from t5jax.sharding import make_mesh
from t5jax.training.layout import make_layout, stack_state, unstack_state
from t5jax.training.schedules import make_schedule
from t5jax.training.step import make_step
from tests.support.models import TINY, lively_params, random_ids

SMALL = TINY.replace(num_layers=2, num_decoder_layers=2, dropout=0.1)
OPTIMIZERS = {
    "adafactor": OptimizerConfig(learning_rate=0.01, warmup=1, min_factored=8),
    "unfactored": OptimizerConfig(learning_rate=0.01, warmup=1),
    "adamw": OptimizerConfig(name="adamw", learning_rate=1e-3, warmup=1, weight_decay=0.1),
}


def batch() -> Batch:
    ids, targets = random_ids(0, 4, 12), random_ids(1, 4, 6)
    return Batch(
        encoder_input_tokens=ids,
        encoder_segment_ids=np.ones_like(ids),
        decoder_input_tokens=np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        decoder_target_tokens=targets,
        decoder_segment_ids=np.ones_like(targets),
        decoder_loss_weights=np.ones(targets.shape, np.float32),
    )


def after(layout, config: RunConfig, steps: int, *, scan: bool):
    model, schedule = T5(config.model, scan=scan), make_schedule(config.optimizer, 10)
    step = jax.jit(make_step(model, layout.optimizer, schedule, config.training))
    state, losses = layout.begin(lively_params(config.model)), []
    for _ in range(steps):
        state, metrics = step(state, batch())
        losses.append(float(metrics.losses.nll))
    return state, losses


def layouts(config: RunConfig):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return (make_layout(config, mesh, stacked=flag) for flag in (True, False))


@pytest.mark.slow
def test_layers_apart_train_like_stacked_ones():
    config = RunConfig(SMALL, optimizer=OPTIMIZERS["adafactor"], training=TrainingConfig(steps=9))
    stacked, apart = layouts(config)
    state, losses = after(stacked, config, 3, scan=True)
    apart_state, apart_losses = after(apart, config, 3, scan=False)
    np.testing.assert_allclose(apart_losses, losses, rtol=1e-5)
    back = stack_state(apart_state, stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), back, state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_goes_to_layers_apart_and_back_unchanged(name):
    stacked, apart = layouts(RunConfig(SMALL, optimizer=OPTIMIZERS[name]))
    state = jax.tree.map(
        lambda x: jnp.arange(x.size).reshape(x.shape).astype(x.dtype), stacked.abstract
    )
    there = unstack_state(state, apart)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), apart.abstract)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), there) == shapes
    jax.tree.map(np.testing.assert_array_equal, stack_state(there, stacked), state)


@pytest.mark.slow
def test_norms_are_measured_on_logged_steps():
    config = RunConfig(SMALL, training=TrainingConfig(steps=5, log_every=2))
    layout, _ = layouts(config)
    schedule = make_schedule(config.optimizer, 5)
    step = jax.jit(make_step(T5(config.model), layout.optimizer, schedule, config.training))
    state, logged = layout.fresh(jax.random.key(0)), []
    for _ in range(5):
        expected = jnp.sqrt(
            sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(state.params))
        )
        state, metrics = step(state, batch())
        if metrics.param_norm:
            np.testing.assert_allclose(metrics.param_norm, expected, rtol=1e-5)
            assert metrics.grad_norm > 0
        logged.append(bool(metrics.param_norm))
    assert logged == [False, True, False, True, True]
