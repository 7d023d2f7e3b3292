"""Model FLOPs of a training step of T5."""

from __future__ import annotations

from t5jax.model.t5.config import T5Config


def step_flops(config: T5Config, batch: int, inputs: int, targets: int) -> float:
    """FLOPs of forward and backward over `batch` rows of `inputs` and `targets` positions.

    Counts matrix products, 2 FLOPs a multiplication and addition, backward twice the forward
    (Kaplan et al. 2020, arXiv:2001.08361, section 2.1); padding counts, recomputation does not.
    """
    d, inner = config.d_model, config.num_heads * config.d_kv
    mlp = (3 if config.gated else 2) * d * config.d_ff
    attention = 4 * d * inner
    encoder = inputs * (attention + mlp + 2 * _keys(config, inputs) * inner)
    if config.global_tokens:
        encoder += inputs // config.global_block_size * 2 * d * inner
    own = targets * (attention + 2 * targets * inner)
    cross = 2 * d * inner * (targets + inputs) + 2 * targets * inputs * inner
    decoder = own + cross + targets * mlp
    head = targets * d * config.vocab_size
    products = config.num_layers * encoder + config.num_decoder_layers * decoder + head
    return 3.0 * 2.0 * batch * products


def _keys(config: T5Config, inputs: int) -> int:
    """Keys that an encoder token is multiplied with, masked keys of LongT5's blocks included."""
    if not config.long:
        return inputs
    globals_ = inputs // config.global_block_size if config.global_tokens else 0
    return 3 * (config.local_radius + 1) + globals_
