"""t5jax."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import t5jax
from contenders.inputs import random_ids
from t5jax.training.machine import keep_freed_memory


def _load(folder: str, dtype: str) -> t5jax.Text2Text:
    if dtype in ("int8", "int4"):
        return t5jax.load(folder, quantize=dtype)
    return t5jax.load(folder, dtype=dtype)


def decoding(folder: str, dtype: str) -> Callable:
    """Greedy decoding, or beam search: ids of int[rows, outputs]."""
    t5 = _load(folder, dtype)

    def prepare(rows: int, inputs: int, outputs: int, beams: int) -> Callable[[], np.ndarray]:
        ids = random_ids(folder, rows, inputs)
        options = {"max_new_tokens": outputs, "min_new_tokens": outputs, "num_beams": beams}
        return lambda: t5.generate_ids(ids, return_scores=False, **options).ids[:, 0]

    return prepare


def encoding(folder: str, dtype: str) -> Callable:
    """The encoder's hidden states, which are not returned."""
    t5 = _load(folder, dtype)

    def prepare(rows: int, inputs: int) -> Callable[[], None]:
        ids = random_ids(folder, rows, inputs)

        def run() -> None:
            np.asarray(t5.encode_ids(ids).hidden)

        return run

    return prepare


def scoring(folder: str, dtype: str) -> Callable:
    """log p(target | input) of random targets, float[rows]."""
    t5 = _load(folder, dtype)

    def prepare(rows: int, inputs: int, targets: int) -> Callable[[], np.ndarray]:
        pair = random_ids(folder, rows, inputs), random_ids(folder, rows, targets, seed=1)
        return lambda: np.asarray(t5.score_ids(*pair))

    return prepare


def training(folder: str, dtype: str) -> Callable:
    """A step of AdamW, forward and backward; the loss is not returned."""
    keep_freed_memory()  # as `t5jax train` does
    from t5jax.batch import Batch
    from t5jax.config import OptimizerConfig, TrainingConfig
    from t5jax.model.family import family_of
    from t5jax.model.parameters import logical_axes, unstack, unstack_axes
    from t5jax.training.optimizers import make_optimizer
    from t5jax.training.schedules import make_schedule
    from t5jax.training.step import init_state, make_step

    if dtype != "float32":
        raise SystemExit(f"dtype {dtype}: training is measured in float32")
    t5 = _load(folder, dtype)
    params = jax.device_get(unstack(t5.params))

    def prepare(rows: int, inputs: int, targets: int, dropout: float) -> Callable[[], None]:
        config = t5.config.replace(dropout=dropout)
        knobs = OptimizerConfig(name="adamw", learning_rate=1e-4, warmup=1)
        axes = unstack_axes(logical_axes(config), config)
        optimizer = make_optimizer(knobs, axes, 1000)
        model = family_of(config).training(config, np.dtype(dtype), scan=False)
        step = make_step(model, optimizer, make_schedule(knobs, 1000), TrainingConfig())
        step = jax.jit(step, donate_argnums=0)
        state = jax.jit(lambda params: init_state(params, optimizer, 0))(params)
        ids = random_ids(folder, rows, inputs).astype(np.int32)
        labels = random_ids(folder, rows, targets, seed=1).astype(np.int32)
        batch = Batch(
            encoder_input_tokens=ids,
            encoder_segment_ids=np.ones_like(ids),
            decoder_input_tokens=np.pad(labels[:, :-1], ((0, 0), (1, 0))),
            decoder_target_tokens=labels,
            decoder_segment_ids=np.ones_like(labels),
            decoder_loss_weights=np.ones(labels.shape, np.float32),
        )

        def run() -> None:
            nonlocal state
            state, metrics = step(state, batch)
            float(metrics.losses.nll)

        return run

    return prepare


def finetuning(folder: str, dtype: str) -> Callable:
    """A step of AdamW on packed rows, as `t5jax train` makes them; the tokens in it."""
    keep_freed_memory()
    from t5jax import sharding
    from t5jax.training.checkpoints import Checkpoints
    from t5jax.training.loop import Run
    from t5jax.training.opening import resolve

    def prepare(
        rows: int, dropout: float, task: str, vocabulary: str, **_: object
    ) -> Callable[[], int]:
        tree = {
            "init": folder,
            "vocabulary": vocabulary,
            "model": {"dropout": dropout},
            "data": {"mixture": task, "lengths": "auto", "batch": rows, "streams": 1},
            "optimizer": {"name": "adamw", "learning_rate": 1e-4, "warmup": 1},
            "training": {"scan_layers": False, "dtype": dtype, "steps": 10**6},
            "eval": {"tasks": []},
            "run_dir": f"{folder}/run",
        }
        config, loaded = resolve(tree)
        mesh, run_dir = sharding.make_mesh(config.mesh), Path(config.run_dir)
        checkpoints = Checkpoints(run_dir, config.training)
        training = Run(config, loaded, mesh, run_dir, checkpoints, None)

        def run() -> int:
            with sharding.use(mesh):
                training.state, metrics = training.step(training.state, next(training.data))
            return int(metrics.tokens)

        return run

    return prepare
