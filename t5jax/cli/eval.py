"""`t5jax eval`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from t5jax.cli.arguments import place
from t5jax.cli.heavy import import_heavy
from t5jax.cli.loading import Generating
from t5jax.knobs import REQUIRED, Names, knob
from t5jax.paths import user_path
from t5jax.run_folder import EVALUATIONS

if TYPE_CHECKING:
    from t5jax.evaluate import TaskResult

# At most as many as t5jax.tasks.metrics.resampling.MOST_RESAMPLES.
MOST_RESAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval(Generating):
    """Evaluate a checkpoint on seqio tasks."""

    checkpoint: str = place("CHECKPOINT")
    tasks: Names = knob(
        REQUIRED,
        "tasks or mixtures, divided by commas; pronounce:FILE with --split all takes a file of "
        "lines word<TAB>phonemes as the test set",
    )
    split: str = knob("validation", "split to evaluate")
    out: str | None = knob(None, "folder for results (CHECKPOINT/eval)")
    examples: int | None = knob(None, "first examples of each task; default: all", least=1)
    show: int = knob(0, "predictions to print", least=0)
    batch: int = knob(256, "inputs decoded at a time", least=1)
    modules: Names = knob(
        (), "your task modules, divided by commas (those of the run, where it needs them)"
    )
    rank: bool = knob(
        False,
        "for tasks with a fixed set of answers: score every answer too and take the best; adds "
        "rank_accuracy beside accuracy",
    )
    confidence: float | None = knob(
        None,
        "level of bootstrap intervals beside every metric, such as 0.95; default: none",
        above=0,
        below=1,
        word="LEVEL",
    )
    resamples: int = knob(1000, "bootstrap resamples", least=1, most=MOST_RESAMPLES, word="N")

    def run(self) -> None:
        """Evaluates, writes the results, and prints metrics and some predictions."""
        import_heavy("t5jax.text2text")
        t5 = self.load(self.checkpoint)
        t5.check_options(self.options)  # a wrong option should not wait for the data
        import_heavy("t5jax.data")
        from t5jax.config import LengthsConfig
        from t5jax.evaluate import Evaluation, write_results
        from t5jax.tasks import registry, run_modules

        registry.load_modules(self.modules)
        run_modules.load_of_run(self.checkpoint, self.tasks)
        limit, longest = t5.max_input_length, t5.generation.max_new_tokens
        evaluation = Evaluation(
            self.tasks,
            t5.vocabulary,
            split=self.split,
            lengths=None if limit is None else LengthsConfig(limit, longest),
            examples=self.examples,
            batch=self.batch,
            rank=self.rank,
            confidence=self.confidence,
            resamples=self.resamples,
            pad=t5.config.pad_token_id,
        )
        results = evaluation.run(t5, **self.options)
        out = user_path(self.out or Path(self.checkpoint) / EVALUATIONS)
        write_results(out, results, {"checkpoint": self.checkpoint, "split": self.split})
        for task, result in results.items():
            self._print(task, result, longest)
        print(f"written to {out}")

    def _print(self, task: str, result: TaskResult, longest: int) -> None:
        print(f"{task} ({self.split})")
        for line in _metric_lines(result.metrics):
            print(f"  {line}")
        if cut := result.about.get("targets_cut"):
            print(
                f"warning: {cut} targets of {task} are longer than the checkpoint's "
                f"max_new_tokens={longest} and were cut",
                file=sys.stderr,
            )
        # Spread over the split: its neighbours are often alike.
        every = max(1, len(result.predictions) // max(self.show, 1))
        for row in result.predictions[::every][: self.show]:
            mark = "=" if row["prediction"] == row["targets"] else "≠"
            print(f"  {row['inputs']}: {row['prediction']} {mark} {row['targets']}")


def _metric_lines(metrics: Mapping[str, float]) -> Iterator[str]:
    """One a metric, with its interval behind it."""
    for name, value in metrics.items():
        if name == "examples":
            yield f"{name:28} {value}"
        elif f"{name}_low" in metrics:
            low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
            yield f"{name:28} {value:.4f}  [{low:.4f}, {high:.4f}]"
        elif not (name.endswith(("_low", "_high")) and name.rpartition("_")[0] in metrics):
            yield f"{name:28} {value:.4f}"
