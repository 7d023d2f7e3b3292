"""`t5jax compare`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from t5jax import standard_streams
from t5jax.cli.arguments import Command, place
from t5jax.cli.eval import MOST_RESAMPLES
from t5jax.cli.heavy import import_heavy
from t5jax.knobs import Names, knob

if TYPE_CHECKING:
    from t5jax.evaluation.comparison import Difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Whether two models' predictions differ by more than chance.

    Reads what `t5jax eval` wrote for the same examples in A and in B (runs, folders of
    evaluations, a task's folder, or predictions.jsonl), and tests the difference of the tasks' own
    metrics, B - A: its interval and p by paired bootstrap, and p by approximate randomization. The
    draws are seeded.
    """

    first: str = place("A")
    second: str = place("B")
    tasks: Names = knob((), "tasks to compare, divided by commas; default: all that are in both")
    metric: tuple[str, ...] = knob(
        (),
        "metric to compare: the task's own of that name, or else a built-in one; default: the "
        "task's own",
        word="NAME",
    )
    modules: Names = knob(
        (),
        "your task modules, divided by commas: for a metric that is not a mean over examples, and "
        "so has no scores in predictions.jsonl",
    )
    ranked: bool = knob(False, "compare the ranked answers (eval --rank)")
    confidence: float = knob(0.95, "level of the interval", above=0, below=1, word="LEVEL")
    resamples: int = knob(1000, "bootstrap resamples", least=1, most=MOST_RESAMPLES, word="N")
    seed: int = knob(0, "seed of the draws", least=0)

    def run(self) -> None:
        """Prints a table of differences for each task."""
        standard_streams.need_stdout()
        import_heavy("t5jax.data")
        from t5jax.evaluation.comparison import (
            compare_predictions,
            pair_predictions,
            read_predictions,
            without_parts,
        )
        from t5jax.tasks import registry

        registry.load_modules(self.modules)
        pairs = pair_predictions(self.first, self.second, self.tasks)
        for number, (task, files) in enumerate(pairs.items()):
            first, second = (read_predictions(file, ranked=self.ranked) for file in files)
            differences = compare_predictions(
                first,
                second,
                self.metric,
                own=bool(self.modules),
                level=self.confidence,
                resamples=self.resamples,
                seed=self.seed,
            )
            if number:
                print()
            print(f"A {first.file}\nB {second.file}\n{len(first.inputs)} examples")
            self._print(differences)
            if not self.metric and not self.modules:
                for name, why in without_parts(first, second).items():
                    print(
                        f"warning: {task}: metric {name} is left out ({why}); --modules FILE.py "
                        "names the module that has the task",
                        file=sys.stderr,
                    )

    def _print(self, differences: Mapping[str, Difference]) -> None:
        interval = f"{self.confidence:.0%} interval"
        print(
            f"{'':28} {'A':>9} {'B':>9} {'B - A':>9}  {interval:20} {'p (bootstrap)':>14} "
            f"{'p (randomization)':>18}"
        )
        for name, each in differences.items():
            bounds = f"[{each.low:.4f}, {each.high:.4f}]"
            print(
                f"{name:28} {each.first:9.4f} {each.second:9.4f} {each.difference:9.4f}  "
                f"{bounds:20} {each.bootstrap_p:14.4f} {each.randomization_p:18.4f}"
            )
