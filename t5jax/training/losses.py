"""The training loss, as sums over tokens: cross entropy with label smoothing and z-loss."""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

# B batch  T target length  V vocab


@flax.struct.dataclass
class LossSums:
    """Weighted sums over tokens, float32 scalars. Add with `+`, divide once: `nll / weight`."""

    objective: jax.Array  # minimised: smoothed cross entropy plus z-loss
    nll: jax.Array  # negative log-likelihood in nats, without smoothing and z-loss
    z_loss: jax.Array  # times its coefficient
    correct: jax.Array  # targets that are the argmax
    weight: jax.Array  # sum of the weights

    def __add__(self, other: LossSums) -> LossSums:
        return jax.tree.map(jnp.add, self, other)


def loss_sums(
    logits: jax.Array,
    targets: jax.Array | np.ndarray,
    weights: jax.Array | np.ndarray,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> LossSums:
    """Sums of the tokens' losses, times their weights.

    Label smoothing moves `label_smoothing` of the probability from the target to the other V - 1
    ids, evenly (Szegedy et al. 2015, arXiv:1512.00567, section 7, but without the target's own
    share), and subtracts the smoothed target's entropy, so that a perfect model reaches 0. A
    token's z-loss is `z_loss * log(Z)^2`, Z the softmax's normaliser: it keeps logits from drifting
    away from log-probabilities.

    Args:
      logits: float[B, T, V]; cast to float32.
      targets: int[B, T], ids below V.
      weights: float32[B, T]; a token of weight 0 adds nothing to sums and gradients.
      label_smoothing: probability in [0, 1); a Python number.
      z_loss: coefficient of the z-loss.

    Returns:
      Undivided sums. Every field but `correct` and `weight` has a gradient.

    Raises:
      ValueError: `label_smoothing` is outside [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
    log_z, target_logits, all_logits, first = _statistics(logits.astype(jnp.float32), targets)
    nll = log_z - target_logits
    loss = nll
    if label_smoothing:
        others = logits.shape[-1] - 1
        low = label_smoothing / others
        entropy = -(1 - label_smoothing) * math.log1p(-label_smoothing)
        entropy -= label_smoothing * math.log(low)
        all_nll = logits.shape[-1] * log_z - all_logits
        loss = (1 - label_smoothing) * nll + low * (all_nll - nll) - entropy
    z = z_loss * jnp.square(log_z)
    return LossSums(
        objective=jnp.sum(weights * (loss + z)),
        nll=jnp.sum(weights * nll),
        z_loss=jnp.sum(weights * z),
        correct=jnp.sum(weights * (first == targets)),
        weight=jnp.sum(weights),
    )


@jax.custom_vjp
def _statistics(
    logits: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """logits [B, T, V], targets [B, T] -> four arrays [B, T].

    They are the log of the softmax's normaliser, the target's logit, the sum of all logits, and the
    first id with the largest logit (without a gradient). The gradient is written out: one pass over
    the largest array of a step, and no other array of that size is kept.
    """
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 2)
    # Logits that are sharded over V are not gathered.
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    # XLA's argmax reduces pairs, which made the loss a tenth slower on CPU.
    is_highest = logits == jnp.max(logits, axis=-1, keepdims=True)
    return (
        jax.nn.logsumexp(logits, axis=-1),
        target_logits,
        jnp.sum(logits, axis=-1),
        jnp.min(jnp.where(is_highest, ids, logits.shape[-1]), axis=-1),
    )


def _statistics_forward(logits: jax.Array, targets: jax.Array) -> Any:
    statistics = _statistics(logits, targets)
    return statistics, (logits, targets, statistics[0])


def _statistics_backward(saved: Any, cotangents: Any) -> Any:
    logits, targets, log_z = saved
    of_log_z, of_target, of_all = (x[..., None] for x in cotangents[:3])
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 2)
    softmax = jnp.exp(logits - log_z[..., None])
    gradient = of_log_z * softmax + of_all + jnp.where(ids == targets[..., None], of_target, 0.0)
    return gradient, None


_statistics.defvjp(_statistics_forward, _statistics_backward)
