"""Model FLOPs of a training step, and what accelerators can do at best."""

from __future__ import annotations

from t5jax.model.t5.config import T5Config

# Dense bfloat16 FLOP/s of one chip, from the vendors' datasheets, by a part of JAX's device_kind.
PEAK_FLOPS = {
    "TPU v2": 45e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a device; None where it is not known."""
    for name, peak in PEAK_FLOPS.items():
        if name in device_kind:
            return peak
    return None


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
    """Keys that an encoder token is multiplied with; masked ones of LongT5's blocks count."""
    if not config.long:
        return inputs
    globals_ = inputs // config.global_block_size if config.global_tokens else 0
    return 3 * (config.local_radius + 1) + globals_
