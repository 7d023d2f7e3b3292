"""Frozen parameters stay bit-identical, have no moments, and the others train as if alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from t5jax.config import OptimizerConfig, RunConfig, TrainingConfig
from t5jax.model.family import family_of
from t5jax.model.parameters import logical_axes, paths, unstack
from t5jax.model.t5.network import T5
from t5jax.training import freezing
from t5jax.training.layout import stack_state, unstack_state
from t5jax.training.losses import loss_sums
from t5jax.training.optimizers import make_optimizer
from t5jax.training.schedules import make_schedule
from t5jax.training.step import make_step
from tests.model.t5.test_layout import OPTIMIZERS, SMALL, batch, layouts
from tests.support.models import lively_params

PATTERNS = (".*embedding", "encoder/layers_0/.*", "decoder/.*/mlp/.*")
CLIPPED = OptimizerConfig(
    name="adamw", learning_rate=0.01, warmup=1, weight_decay=0.5, clip_norm=0.1, freeze=PATTERNS
)


def frozen(path: str) -> bool:
    return path.endswith("embedding") or path.startswith("encoder/layers_0/") or (
        path.startswith("decoder/") and "/mlp/" in path
    )  # fmt: skip


def trained_once(layout, config: RunConfig, *, scan: bool):
    step = jax.jit(
        make_step(
            T5(config.model, scan=scan), layout.optimizer, make_schedule(config.optimizer, 10),
            config.training, trained=layout.trained,
        )
    )  # fmt: skip
    state = layout.begin(lively_params(config.model))
    for _ in range(2):
        state, _ = step(state, batch())
    return state


@pytest.mark.parametrize(
    "pieces, scan",
    [(1, True), *(pytest.param(2, x, marks=pytest.mark.slow) for x in (True, False))],
)
def test_frozen_parameters_stay_bit_identical_and_the_others_move(pieces, scan):
    config = RunConfig(
        SMALL, optimizer=CLIPPED, training=TrainingConfig(steps=9, micro_batches=pieces)
    )
    stacked, apart = layouts(config)
    state = trained_once(stacked if scan else apart, config, scan=scan)
    params = unstack(state.params) if scan else state.params
    before = flatten_dict(unstack(lively_params(SMALL)), sep="/")
    after = flatten_dict(params, sep="/")
    assert after.keys() == paths(SMALL).keys()
    for path, x in after.items():
        assert np.array_equal(x, before[path]) == frozen(path), path


@pytest.mark.slow
def test_the_trained_part_trains_as_if_it_were_all():
    """Gradients of that part alone, to an optimizer of that part alone: no norm counts the rest.

    AdamW's epsilon is as large as the clipped gradient's entries. With a tiny one a step depends on
    a gradient's sign alone: then it would not show how the gradient was clipped, and rounding would
    decide the step of an entry near zero.
    """
    model = SMALL.replace(dropout=0.0)
    fields = OptimizerConfig(**{**vars(CLIPPED), "epsilon": 1e-3})
    config = RunConfig(
        model, optimizer=OptimizerConfig(**{**vars(fields), "freeze": ("encoder/.*",)}),
        training=TrainingConfig(steps=9, z_loss=0.0),
    )  # fmt: skip
    layout, _ = layouts(config)
    ours = trained_once(layout, config, scan=True).params
    whole = lively_params(model)
    part = {k: v for k, v in whole.items() if k != "encoder"}
    axes = {k: v for k, v in logical_axes(model).items() if k != "encoder"}
    optimizer = make_optimizer(fields, axes, 9, no_decay=family_of(model).no_decay)
    rows = batch()

    def loss(part):
        logits = T5(model).apply(
            {"params": {**part, "encoder": whole["encoder"]}}, rows.encoder_input_tokens,
            rows.decoder_input_tokens, rows.encoder_segment_ids, rows.decoder_segment_ids,
        )  # fmt: skip
        sums = loss_sums(logits, rows.decoder_target_tokens, rows.decoder_loss_weights)
        return sums.objective / sums.weight

    state, gradient = optimizer.init(part), jax.jit(jax.grad(loss))
    for _ in range(2):
        updates, state = optimizer.update(gradient(part), state, part)
        part = optax.apply_updates(part, updates)
    for name in part:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours[name], part[name]
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_have_no_moments_in_either_layout(name):
    fields = {**vars(OPTIMIZERS[name]), "freeze": PATTERNS}
    stacked, apart = layouts(RunConfig(SMALL, optimizer=OptimizerConfig(**fields)))
    free, _ = layouts(RunConfig(SMALL, optimizer=OPTIMIZERS[name]))
    kept = freezing.with_moments(stacked.trained, SMALL, stacked=True)
    # Of one layer of two that is frozen, the stacked array has both layers' moments.
    assert kept["encoder"]["layers"] == jax.tree.map(lambda _: True, kept["encoder"]["layers"])
    count = sum(not keep for keep in jax.tree.leaves(kept))
    trees = 2 if name == "adamw" else 3
    leaves = [len(jax.tree.leaves(layout.abstract.opt_state)) for layout in (free, stacked)]
    assert leaves[0] - leaves[1] == count * trees > 0
    state = jax.tree.map(
        lambda x: jnp.arange(x.size).reshape(x.shape).astype(x.dtype), stacked.abstract
    )
    there = unstack_state(state, apart)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), apart.abstract)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), there) == shapes
    jax.tree.map(np.testing.assert_array_equal, stack_state(there, stacked), state)


def test_a_pattern_that_matches_nothing_is_refused_with_near_paths():
    with pytest.raises(ValueError, match=r"'encoder/layer_0/mlp/wi' .* encoder/layers_0/mlp/wi"):
        freezing.trained(["encoder/layer_0/mlp/wi"], SMALL)
    with pytest.raises(ValueError, match=r"'encoder' matches no parameter's whole path"):
        freezing.trained(["encoder"], SMALL)
    with pytest.raises(ValueError, match="no regular expression"):
        freezing.trained(["("], SMALL)
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        freezing.trained(["encoder/.*", "(?!encoder).*"], SMALL)
