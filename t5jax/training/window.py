"""Metrics of the steps since the last logged one, on the device and in a checkpoint."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from t5jax import run_folder
from t5jax.config import LengthsConfig
from t5jax.data.loader import Cut
from t5jax.training.losses import LossSums
from t5jax.training.step import StepMetrics


@dataclasses.dataclass
class Window:
    """The steps of one logged row, with the last step's number and counts of cut examples."""

    step: int
    metrics: list[StepMetrics]
    cut: Cut


def summarize(rows: Sequence[StepMetrics], seconds: float, cut: Cut) -> dict[str, float]:
    """One logged row: the steps' metrics per token and per second."""
    total = jax.tree.map(lambda *x: float(np.sum(x)), *rows)
    last = rows[-1]
    losses, weight = total.losses, max(total.losses.weight, 1.0)
    return {
        "loss": losses.nll / weight,
        "accuracy": losses.correct / weight,
        "z_loss": losses.z_loss / weight,
        "grad_norm": float(last.grad_norm),
        "param_norm": float(last.param_norm),
        "learning_rate": float(last.learning_rate),
        "examples_per_second": total.examples / seconds,
        "tokens_per_second": total.tokens / seconds,
        "step_seconds": seconds / len(rows),
        **{f"{feature}_cut": n for feature, of in cut.items() if (n := sum(of.values()))},
    }


class Notices:
    """Warnings of cut and dropped examples, once for each task and feature.

    `pad` is the model's padding id.
    """

    def __init__(self, lengths: LengthsConfig, pad: int) -> None:
        self.lengths, self.pad = lengths, pad
        self.told: set[tuple[str, str]] = set()

    def news(self, cut: Cut, dropped: dict[str, int]) -> Iterator[str]:
        """The warnings not yet given."""
        new = {
            feature: {task: n for task, n in of.items() if (feature, task) not in self.told}
            for feature, of in cut.items()
        }
        for line in self.totals(new):
            yield f"warning: so far {line}"
        self.told |= {(feature, task) for feature in new for task, n in new[feature].items() if n}
        for task, count in dropped.items():
            if count and ("left out", task) not in self.told:
                self.told.add(("left out", task))
                yield (
                    f"warning: so far {count} examples of {task} were left out: no inputs, no "
                    f"targets, or an id {self.pad} (padding) in them; `t5jax tasks {task}` shows "
                    "them"
                )

    def totals(self, cut: Cut) -> Iterator[str]:
        """One line for each feature and task with cut examples."""
        for feature, of in cut.items():
            longest = getattr(self.lengths, feature)
            for task, count in of.items():
                if count:
                    yield (
                        f"{count} {feature} of {task} have more than "
                        f"data.lengths.{feature}={longest} tokens and were cut"
                    )


def write_window(
    folder: epath.Path, window: Sequence[StepMetrics], seconds: float, written: str
) -> None:
    """Writes the unlogged steps' metrics and seconds, and the checksum of metrics.jsonl."""
    leaves = jax.tree.leaves_with_path(window)
    arrays: Any = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    about: Any = {"seconds": seconds, "steps": len(window), "written": written}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **about, **arrays)
    (folder / run_folder.WINDOW).write_bytes(content.getvalue())


def read_window(folder: Path) -> tuple[list[StepMetrics], float, str]:
    """Metrics, seconds and checksum of `write_window`; empty for older checkpoints without them."""
    file = folder / run_folder.WINDOW
    if not file.is_file():
        return [], 0.0, ""
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
        zero: Any = 0
        fields = StepMetrics(LossSums(*5 * (zero,)), *5 * (zero,))
        window = jax.tree.map_with_path(
            lambda path, _: saved[jax.tree_util.keystr(path, simple=True, separator="/")],
            [fields] * int(saved["steps"]),
        )
        return window, float(saved["seconds"]), str(saved["written"])
