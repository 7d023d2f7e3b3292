"""Speed of a training step, with t5jax and transformers: AdamW, dropout, float32.

python scripts/benchmark_training.py --batch 8 --inputs 128 --targets 32
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax
import numpy as np
from interleaved import measure, table, write_json
from peers import random_torch_t5

import t5jax
from t5jax.batch import Batch
from t5jax.config import OptimizerConfig, TrainingConfig
from t5jax.model.parameters import init_params, logical_axes, unstack, unstack_axes
from t5jax.model.t5.network import T5
from t5jax.training.optimizers import make_optimizer
from t5jax.training.schedules import make_schedule
from t5jax.training.step import init_state, make_step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="t5_small", choices=t5jax.VARIANTS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=128, help="tokens of an input")
    parser.add_argument("--targets", type=int, default=32, help="tokens of a target")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="steps of a round")
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()

    config = t5jax.VARIANTS[arguments.variant].replace(dropout=arguments.dropout)
    rng = np.random.default_rng(0)
    ids = rng.integers(3, config.vocab_size, (arguments.batch, arguments.inputs), dtype=np.int32)
    targets = rng.integers(
        3, config.vocab_size, (arguments.batch, arguments.targets), dtype=np.int32
    )
    print(
        f"{arguments.variant}, batch {arguments.batch}, {arguments.inputs} in, "
        f"{arguments.targets} out, dropout {arguments.dropout}, AdamW, float32, "
        f"{jax.devices()[0].device_kind}"
    )
    contenders = {
        "t5jax": ours(config, ids, targets),
        "transformers": theirs(config, ids, targets),
    }
    seconds = measure(contenders, arguments.rounds, arguments.steps)
    write_json(arguments.json, table(seconds, arguments.batch, "examples", "t5jax"))


def ours(config: t5jax.T5Config, ids: np.ndarray, targets: np.ndarray) -> Callable[[], float]:
    training, knobs = TrainingConfig(), OptimizerConfig(name="adamw", learning_rate=1e-4, warmup=1)
    axes = unstack_axes(logical_axes(config), config)
    optimizer = make_optimizer(knobs, axes, 1000)
    schedule = make_schedule(knobs, 1000)
    model = T5(config, scan=False)
    step = jax.jit(make_step(model, optimizer, schedule, training), donate_argnums=0)
    state = jax.jit(lambda key: init_state(unstack(init_params(config, key)), optimizer, 0))(
        jax.random.key(0)
    )
    batch = Batch(
        encoder_input_tokens=ids,
        encoder_segment_ids=np.ones_like(ids),
        decoder_input_tokens=np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        decoder_target_tokens=targets,
        decoder_segment_ids=np.ones_like(targets),
        decoder_loss_weights=np.ones(targets.shape, np.float32),
    )

    def run() -> float:
        nonlocal state
        state, metrics = step(state, batch)
        return float(metrics.losses.nll / metrics.losses.weight)

    return run


def theirs(config: t5jax.T5Config, ids: np.ndarray, targets: np.ndarray) -> Callable[[], float]:
    import torch

    model = random_torch_t5(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs, labels = torch.tensor(ids.astype(np.int64)), torch.tensor(targets.astype(np.int64))

    def run() -> float:
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    return run


if __name__ == "__main__":
    main()
