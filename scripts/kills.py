"""Kills and restarts a run at seeded moments, and compares it with an uninterrupted run.

    python scripts/kills.py [--kills 20] [--seed 0]

Logging, evaluation and checkpoints come at different steps. Parameters, optimizer state, metrics
and TensorBoard events (without timing), predictions, and the kept checkpoints must be equal. Exits
1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CONFIG: dict[str, Any] = {
    "model": {
        "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1,
        "num_decoder_layers": 1, "dropout": 0.1,
    },
    "data": {
        "mixture": "inflect", "lengths": {"inputs": 12, "targets": 8}, "batch": 16, "streams": 2,
        "shuffle_buffer": 100_000,
    },
    "optimizer": {"learning_rate": 0.01, "warmup": 100},
    "training": {
        "log_every": 4, "eval_every": 105, "save_every": 30, "keep": 2,
        "keep_best": "inflect/loss",
    },
    "eval": {"tasks": ["inflect"], "examples": 10, "max_new_tokens": 4},
}  # fmt: skip
TIMING = ("examples_per_second", "tokens_per_second", "step_seconds", "model_flops_per_second",
          "peak_share")  # fmt: skip


def write_config(folder: Path, steps: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    training = CONFIG["training"] | {"steps": steps}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG | {"training": training, "run_dir": str(folder / "run")}))
    return file


def start(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "t5jax.cli", "train", str(config)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(config: Path) -> str:
    """Runs to the end; returns its stderr."""
    process = start(config)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)
    return errors


def kill(config: Path, moments: list[tuple[int, float]]) -> list[int]:
    """Starts the run and kills it at each moment; returns the numbers of logged lines.

    A moment is a number of lines in metrics.jsonl to wait for, and seconds after that.
    """
    file = config.parent / "run" / "metrics.jsonl"
    found = []
    for lines, seconds in moments:
        process = start(config)
        while process.poll() is None and _lines(file) < lines:
            time.sleep(0.005)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        found.append(_lines(file))
    return found


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def moments(kills: int, steps: int, seed: int) -> list[tuple[int, float]]:
    """Seeded moments, ascending; every fourth is during the process's start."""
    rng = random.Random(seed)
    every = CONFIG["training"]["log_every"]
    lines = sorted(rng.sample(range(1, steps // every - 1), kills))
    return [(0, 12 * rng.random()) if i % 4 == 3 else (n, 0.3 * rng.random())
            for i, n in enumerate(lines)]  # fmt: skip


def differences(first: Path, second: Path) -> list[str]:
    """The differences of two run folders, a line each."""
    a, b = _content(first), _content(second)
    return [
        f"{name}: {a.get(name, 'missing')!s:.200} | {b.get(name, 'missing')!s:.200}"
        for name in sorted(a.keys() | b.keys())
        if not _equal(a.get(name), b.get(name))
    ]


def _equal(a: Any, b: Any) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def _content(run: Path) -> dict[str, Any]:
    import jax
    import orbax.checkpoint as ocp
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    content: dict[str, Any] = {}
    steps = sorted(int(p.name) if p.name.isdigit() else p.name
                   for p in (run / "checkpoints").iterdir())  # fmt: skip
    content["checkpoints"] = steps
    for part in ("params", "state"):
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore((run / "checkpoints" / str(steps[-1]) / part).absolute())
        for path, leaf in jax.tree.leaves_with_path(tree):
            content[f"{part}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        content[f"metrics.jsonl line {i + 1}"] = {k: v for k, v in row.items() if k not in TIMING}
    events = EventAccumulator(str(run / "tensorboard"), {"tensors": 0}).Reload()
    for tag in events.Tags()["tensors"]:
        if tag not in TIMING:
            content[f"events {tag}"] = [
                (event.step, float(make_ndarray(event.tensor_proto)))
                for event in events.Tensors(tag)
            ]
    for file in sorted((run / "eval").rglob("*.json*")):
        content[str(file.relative_to(run))] = file.read_text()
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=602)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        whole, killed = Path(made, "whole"), Path(made, "killed")
        finish(write_config(whole, arguments.steps))
        config = write_config(killed, arguments.steps)
        found = kill(config, moments(arguments.kills, arguments.steps, arguments.seed))
        finish(config)
        again = finish(config)
        wrong = differences(whole / "run", killed / "run")
        count = len(_content(whole / "run"))
    print(f"{len(found)} kills, after {found} logged rows; started again: {again.strip()}")
    print(f"{len(wrong)} of {count} values differ")
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
