"""The learning rate as a function of the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from t5jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The course of the learning rate over a run of `steps` steps.

    - `inverse_sqrt`: learning_rate * sqrt(warmup / max(step, warmup)): level at first. With the
      rate 0.01 and 10,000 steps it is T5's 1 / sqrt(max(step, 10,000)) (Raffel et al. 2020,
      arXiv:1910.10683, section 3.1.2).
    - `constant`, `linear`, `cosine`: a line from 0 to learning_rate over `warmup` steps; then
      level, or a line or half a cosine down to final_fraction * learning_rate at step `steps`,
      and level from there.

    A run that goes on where another ended has its `step_offset` steps behind it: they are added to
    `steps` and to every step.

    Returns:
      A function from a step (an int or int32[], traced or not; the first one is 0) to float32[].

    Raises:
      ValueError: if a linear or cosine schedule has `warmup` larger than `steps`, or
        `config.schedule` is unknown.
    """
    schedule = _schedule(config, steps + config.step_offset)
    return lambda step: jnp.asarray(schedule(step + config.step_offset), jnp.float32)


def _schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    peak, warmup = config.learning_rate, config.warmup
    if config.schedule == "inverse_sqrt":
        level = max(warmup, 1)
        return lambda step: peak * jax.lax.rsqrt(jnp.maximum(step, level) / level)

    decay_steps = steps - warmup
    if config.schedule == "constant":
        decay = optax.constant_schedule(peak)
    elif decay_steps < 0:
        raise ValueError(
            f"warmup={warmup} must not be larger than steps={steps} "
            f"with the {config.schedule} schedule"
        )
    elif config.schedule == "linear":
        decay = optax.linear_schedule(peak, config.final_fraction * peak, decay_steps)
    elif config.schedule == "cosine":
        # optax refuses a decay of no steps, which is what a warm-up to the very end leaves.
        decay = optax.cosine_decay_schedule(peak, max(decay_steps, 1), config.final_fraction)
    else:
        raise ValueError(
            f"schedule={config.schedule!r} is none of inverse_sqrt, constant, linear, cosine"
        )
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, decay], [warmup])
