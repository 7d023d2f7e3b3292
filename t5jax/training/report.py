"""A run's metrics: on the terminal, in metrics.jsonl, in TensorBoard."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from t5jax import host
from t5jax.formats.checksums import of_bytes, of_file
from t5jax.run_folder import METRICS, TENSORBOARD
from t5jax.schema import check, parse_json

_ROW = dict[str, pydantic.StrictInt | pydantic.StrictFloat]
SHOWN = ("loss", "accuracy", "grad_norm", "learning_rate", "tokens_per_second", "step_seconds",
         "inputs_cut", "targets_cut")  # fmt: skip


def read_metrics(file: Path, last_step: int) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to `last_step`. Skips invalid lines, which a kill may leave."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_bytes().split(b"\n"):
        try:
            row = check(_ROW, parse_json(line, file), file)
        except ValueError:
            continue
        if row.get("step", math.inf) <= last_step:
            rows.append(row)
    return rows


class Report:
    """Writes one row a logged step.

    A killed run may have logged steps after its last checkpoint, which a resumed run computes
    again. So their rows are removed from metrics.jsonl, and TensorBoard's files are rewritten from
    it: every step has one row.

    Args:
      run_dir: the run's folder.
      start: the step of the checkpoint, 0 for a new run.
      steps: the run's last step.
      tensorboard: whether to write event files.
      written: `checksum()` when `start` was saved.
    """

    def __init__(
        self, run_dir: Path, *, start: int, steps: int, tensorboard: bool, written: str = ""
    ) -> None:
        self.file = run_dir / METRICS
        rows = read_metrics(self.file, start)
        size = int(written.partition(" ")[0] or 0)
        content = self.file.read_bytes()[:size] if size and self.file.exists() else b""
        changed = size and of_bytes(content) != written
        host.replace(self.file, map(json.dumps, rows))
        self.stream = self.file.open("a", encoding="utf-8")
        self.writer = _tensorboard(run_dir / TENSORBOARD, rows) if tensorboard else None
        self.steps = steps
        self.began, self.start = time.monotonic(), start
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self.bar = Progress(*columns, TimeRemainingColumn())
            self.task = self.bar.add_task("training", total=steps, completed=start)
            self.bar.start()
        if changed:
            self.say(
                f"warning: {self.file} is not as it was at step {start}; its {len(rows)} rows that "
                "can be read are kept"
            )

    def checksum(self) -> str:
        """The checksum of metrics.jsonl."""
        return of_file(self.file)

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self.bar:
            self.bar.update(self.task, completed=step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a step's row everywhere."""
        self.stream.write(json.dumps({"step": step, **metrics}) + "\n")
        self.stream.flush()
        if self.writer:
            _write_scalars(self.writer, step, metrics)
            self.writer.flush()
        shown = {k: v for k, v in metrics.items() if k in SHOWN or k.startswith("eval/")}
        text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        done = step - self.start
        left = (time.monotonic() - self.began) / max(done, 1) * (self.steps - step)
        self.say(f"step {step}/{self.steps}  {text}  left {_clock(left)}")

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar if it is shown."""
        if self.bar:
            self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Closes the progress bar and the files."""
        if self.bar:
            self.bar.stop()
        self.stream.close()
        if self.writer:
            self.writer.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _tensorboard(folder: Path, rows: list[dict[str, Any]]) -> Any:
    import tensorflow as tf

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = tf.summary.create_file_writer(str(folder))
    for row in rows:
        _write_scalars(writer, row["step"], {k: v for k, v in row.items() if k != "step"})
    writer.flush()
    return writer


def _write_scalars(writer: Any, step: int, metrics: Mapping[str, float]) -> None:
    import tensorflow as tf

    with writer.as_default(step=step):
        for name, value in metrics.items():
            tf.summary.scalar(name, value)
