"""The learning rate as a function of the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from t5jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of a run of `steps` steps.

    - `inverse_sqrt`: learning_rate * sqrt(warmup / max(step, warmup)). With learning_rate 0.01 and
      warmup 10,000 it is T5's 1 / sqrt(max(step, 10,000)) (Raffel et al. 2020, arXiv:1910.10683,
      section 3.1.2).
    - `constant`, `linear`, `cosine`: linear from 0 to learning_rate over `warmup` steps; then
      constant, or linear or half a cosine down to final_fraction * learning_rate at step `steps`,
      and constant from there.

    `step_offset`, the steps that `init` was trained for, is added to `steps` and to every step.

    Returns:
      A function from a step (int or int32[], traced or not, from 0) to float32[].

    Raises:
      ValueError: `warmup` of a linear or cosine schedule is larger than `steps`.
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
    else:
        # optax refuses a decay over 0 steps, which warmup == steps leaves.
        decay = optax.cosine_decay_schedule(peak, max(decay_steps, 1), config.final_fraction)
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, decay], [warmup])
