"""One training step: a pure function from state and batch to state and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from t5jax.batch import Batch
from t5jax.config import TrainingConfig
from t5jax.model.contract import Params
from t5jax.training.freezing import select
from t5jax.training.losses import LossSums, loss_sums


@flax.struct.dataclass
class TrainState:
    """The state that training changes; a checkpoint holds it and the data's position.

    `key` is the data of the run's rbg dropout key, whose bits cost a fraction of threefry's. The
    step is folded in, so a resumed run draws the same bits.
    """

    step: jax.Array  # int32, steps done
    params: Params  # float32
    opt_state: Any
    key: jax.Array  # uint32[4]


@flax.struct.dataclass
class StepMetrics:
    """Scalars of one batch. Norms, which read all parameters, are 0 on steps that do not log."""

    losses: LossSums
    examples: jax.Array  # a packed row holds several
    tokens: jax.Array  # encoder and decoder tokens without padding
    grad_norm: jax.Array
    param_norm: jax.Array
    learning_rate: jax.Array


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    key = jax.random.key_data(jax.random.key(seed, impl="rbg"))
    return TrainState(jnp.int32(0), params, optimizer.init(params), key)


def make_gradients(
    model: nn.Module, config: TrainingConfig
) -> Callable[[Params, Batch, jax.Array], tuple[Any, LossSums]]:
    """`gradients(params, batch, dropout key) -> gradients, sums`, accumulated over micro-batches.

    The loss is divided by the weights of the whole batch, so every token counts the same, however
    padding is spread over devices and micro-batches.
    """

    def objective(
        params: Params, batch: Batch, key: jax.Array, weight: jax.Array
    ) -> tuple[jax.Array, LossSums]:
        logits: Any = model.apply(
            {"params": params},
            batch.encoder_input_tokens,
            batch.decoder_input_tokens,
            batch.encoder_segment_ids,
            batch.decoder_segment_ids,
            dropout_key=key,
        )
        sums = loss_sums(
            logits,
            batch.decoder_target_tokens,
            batch.decoder_loss_weights,
            label_smoothing=config.label_smoothing,
            z_loss=config.z_loss,
        )
        return sums.objective / weight, sums

    gradient = jax.grad(objective, has_aux=True)

    def accumulated(params: Params, batch: Batch, key: jax.Array) -> tuple[Any, LossSums]:
        pieces = config.micro_batches
        # At least 1, so that a batch without targets has zero gradients, not NaN.
        weight = jnp.maximum(jnp.sum(batch.decoder_loss_weights), 1.0)
        if pieces == 1:
            return gradient(params, batch, key, weight)
        # Row r goes to micro-batch r % pieces, so each micro-batch has rows of every device.
        split = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(-1, pieces, *x.shape[1:]), 0, 1), batch
        )

        def add(total: Any, piece: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, *piece, weight)), None

        keys = jax.random.split(key, pieces)
        first = jax.tree.map(lambda x: x[0], (split, keys))
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, params, *first, weight)
        )
        return jax.lax.scan(add, zeros, (split, keys))[0]

    return accumulated


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: TrainingConfig,
    *,
    param_shardings: Any = None,
    trained: Params | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """`step(state, batch) -> state, metrics`; jit it, and donate the state.

    Frozen parameters (False in `trained`, of `freezing.trained`) count as zero gradients in norms
    and clipping too.
    """
    gradients = make_gradients(model, config)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="rbg"), state.step)
        grads, sums = gradients(state.params, batch, key)
        if param_shardings is not None:
            # Without it, the partitioner replicates gradients over fsdp.
            grads = jax.lax.with_sharding_constraint(grads, param_shardings)
        if trained is not None:
            grads = select(trained, grads, jax.tree.map(jnp.zeros_like, grads))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if trained is not None:
            # Weight decay would move a frozen layer.
            params = select(trained, params, state.params)
        done = state.step + 1
        grad_norm, param_norm = jax.lax.cond(
            (done % config.log_every == 0) | (done == config.steps),
            lambda trees: tuple(global_norm(tree) for tree in trees),
            lambda trees: (jnp.float32(0), jnp.float32(0)),
            (grads, state.params),
        )
        metrics = StepMetrics(
            losses=sums,
            examples=jnp.sum(jnp.max(batch.decoder_segment_ids, axis=1)),
            tokens=jnp.sum(batch.encoder_segment_ids != 0)
            + jnp.sum(batch.decoder_segment_ids != 0),
            grad_norm=grad_norm,
            param_norm=param_norm,
            learning_rate=jnp.asarray(schedule(state.step), jnp.float32),
        )
        return TrainState(done, params, opt_state, state.key), metrics

    return step


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of a tree, float32.

    On a CPU, dot products read each array once; `optax.global_norm` also writes its squares.
    """
    squares = [jnp.tensordot(x, x, x.ndim) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))
