"""Evaluation with seqio: metrics of predictions and of ranked answers, and the targets' loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from t5jax import user_code
from t5jax.config import LengthsConfig
from t5jax.evaluation.examples import count_cut, examples_of, ids_of, read_task, tasks_of, text_of
from t5jax.evaluation.results import TaskResult, plain, write_results
from t5jax.evaluation.values import LOSSES, Values, losses, of_objects
from t5jax.knobs import Range, check_value, names_of
from t5jax.tasks.measuring import metrics_of, names_of_values, postprocessed
from t5jax.tasks.metrics.base import is_built_in
from t5jax.tasks.metrics.examples import Measured
from t5jax.tasks.metrics.resampling import check_bootstrap, unit_intervals
from t5jax.tasks.ranking import AnswersOf, answers_of
from t5jax.text2text import Text2Text
from t5jax.vocabulary import Vocabulary

__all__ = ["Evaluation", "TaskResult", "write_results"]


class Evaluation:
    """Tokenized examples of some tasks, on which any number of models can be run.

    Args:
      names: registered tasks or mixtures, a list or divided by commas. A mixture stands for its
        tasks that have the split and a metric.
      vocabulary: the model's.
      split: the split of every task.
      lengths: longer inputs and targets are cut; None: no limit.
      examples: evaluate the first examples of each task only; None: all.
      batch: rows decoded together.
      rank: also score each answer of tasks with known answers (`t5jax.tasks.ranking`), and report
        the metrics of the best one as `rank_<metric>`.
      confidence: level of bootstrap intervals, `<metric>_low` and `<metric>_high`; None: none.
      resamples: bootstrap resamples; seeded.
      pad: the models' padding id, which examples must not contain.

    Raises:
      ValueError: an unknown task, a task without the split or without a metric; nothing to rank; an
        invalid confidence or number of resamples.
    """

    def __init__(
        self,
        names: Sequence[str] | str,
        vocabulary: Vocabulary,
        *,
        split: str = "validation",
        lengths: LengthsConfig | None = None,
        examples: int | None = None,
        batch: int = 256,
        rank: bool = False,
        confidence: float | None = None,
        resamples: int = 1000,
        pad: int = 0,
    ) -> None:
        if confidence is not None:
            check_bootstrap(confidence, resamples)
        names = names_of(names) if isinstance(names, str) else list(names)
        if not names:
            raise ValueError("no task to evaluate is named; `t5jax tasks` lists what there is")
        check_value("batch", batch, int, Range(least=1))
        check_value("examples", examples, int | None, Range(least=1))
        self.vocabulary = vocabulary
        self.batch = batch
        self.lengths = lengths
        self.rank = rank
        self.confidence = confidence
        self.resamples = resamples
        self.evaluators = [
            read_task(task, split, lengths, examples, pad)
            for task in tasks_of(names, vocabulary, split)
        ]
        evaluated = [each.eval_tasks[0].name for each in self.evaluators]
        if rank and not any(map(answers_of, evaluated)):
            raise ValueError(
                f"no answers to rank are known for {', '.join(evaluated)}; "
                "t5jax.tasks.ranking.set_answers declares one"
            )

    def run(self, t5: Text2Text, *, progress: bool = True, **options: Any) -> dict[str, TaskResult]:
        """Every task's result, by name; `options` are those of `Text2Text.generate`."""
        return dict(self._task(each, t5, progress, options) for each in self.evaluators)

    def value_names(self, examples: int | None = None) -> dict[str, list[str]]:
        """The names of each task's values, found without a model.

        Each metric gets the first `examples` targets as predictions, and all targets if it fails
        on those. Raises ValueError for a metric that fails on all.
        """
        names = {}
        for each in self.evaluators:
            (task,) = each.eval_tasks
            rows = examples_of(each, task)
            texts = [text_of(row, "targets", self.vocabulary) for row in rows]
            try:
                found = names_of_values(task, texts[:examples], rows[:examples])
            except ValueError:  # perhaps a metric that needs two classes, and found one
                if examples is None or len(rows) <= examples:
                    raise
                found = names_of_values(task, texts, rows)
            values = Values(task.name)
            for metric, several in found.items():
                values.add(f"metric {metric}", dict.fromkeys(several, 0.0))
            values.add("every evaluation", dict.fromkeys(LOSSES, 0.0))
            names[task.name] = list(values.by_name)
        return names

    def _task(
        self, each: seqio.Evaluator, t5: Text2Text, progress: bool, options: Mapping[str, Any]
    ) -> tuple[str, TaskResult]:
        (task,) = each.eval_tasks
        examples = examples_of(each, task)
        if not examples:
            raise ValueError(f"task {task.name}: the split to evaluate is empty")
        inputs, targets = (
            ids_of(examples, name, t5.config.pad_token_id) for name in ("inputs", "targets")
        )
        how: dict[str, Any] = {"batch_size": self.batch, "progress": progress}
        scores = t5.score_ids(inputs, targets, **how)
        generated = t5.generate_ids(inputs, **how, **options)
        predicted, predicted_scores = generated.ids[:, 0], np.asarray(generated.scores)[:, 0]

        texts = [text_of(example, "targets", self.vocabulary) for example in examples]
        written = [self.vocabulary.decode(ids.tolist()) for ids in predicted]
        expected = postprocessed(task, texts, examples, is_target=True)
        answers = postprocessed(task, written, examples)
        sources = [text_of(example, "inputs", self.vocabulary) for example in examples]
        columns = zip(sources, texts, written, scores.tolist(), strict=True)
        names = ("inputs", "targets", "prediction", "target_score")
        predictions = [dict[str, Any](zip(names, row, strict=True)) for row in columns]
        _add_changed(predictions, "targets", "expected", expected)
        _add_changed(predictions, "prediction", "answer", answers)

        values = Values(task.name)
        measured = metrics_of(task, expected, answers, scores, predicted_scores)
        self._add(values, measured, predictions)
        about: dict[str, Any] = {
            "task": task.name,
            "metrics": [one.name for one in measured],
            "per_example": {one.name: one.kind for one in measured},
        }
        objects = of_objects(each, task, predicted, predicted_scores, scores)
        values.add("a metric object", {k: v for k, v in objects.items() if k not in values.by_name})

        choices = answers_of(task.name)
        if self.rank and choices is not None:
            with user_code.running(f"task {task.name}: answers"):
                best, best_scores = self._best(t5, inputs, choices, examples, how)
            answers = postprocessed(task, best, examples)
            for row, text in zip(predictions, best, strict=True):
                row["ranked"] = text
            _add_changed(predictions, "ranked", "ranked_answer", answers)
            ranked = metrics_of(task, expected, answers, scores, best_scores)
            self._add(values, ranked, predictions, "rank_")
            about["rank_per_example"] = {one.name: one.kind for one in ranked}

        values.add("every evaluation", losses(t5, scores, targets, texts))
        values.add("every evaluation", {"examples": len(examples)})
        for fn in filter(is_built_in, task.predict_metric_fns):
            if fn.signature is not None:
                about[f"{fn.name}_signature"] = fn.signature(expected)
        if cut := count_cut(examples, texts, self.lengths, self.vocabulary):
            about["targets_cut"] = cut
        if self.confidence is not None:
            about |= {"confidence": self.confidence, "resamples": self.resamples}
        about["options"] = plain(options)
        return task.name, TaskResult(values.by_name, predictions, about)

    def _add(
        self,
        values: Values,
        measured: Sequence[Measured],
        predictions: Sequence[dict[str, Any]],
        prefix: str = "",
    ) -> None:
        """Adds metrics' values and intervals to `values`, their parts to each prediction."""
        where = "ranked_" if prefix else ""
        for one in measured:
            what = f"metric {one.name}"
            values.add(what, {f"{prefix}{name}": value for name, value in one.values.items()})
            if self.confidence is not None:
                intervals = unit_intervals(
                    one.metric, one.units, level=self.confidence, resamples=self.resamples
                )
                for name, (low, high) in intervals.items():
                    bounds = {f"{prefix}{name}_low": low, f"{prefix}{name}_high": high}
                    values.add(what, bounds)
            if one.parts is not None:
                for row, part in zip(predictions, one.parts, strict=True):
                    row.setdefault(where + one.kind, {})[one.name] = part

    def _best(
        self,
        t5: Text2Text,
        inputs: np.ndarray,
        choices: tuple[str, ...] | AnswersOf,
        examples: Sequence[Mapping[str, Any]],
        how: Mapping[str, Any],
    ) -> tuple[list[str], np.ndarray]:
        """Each example's likeliest answer, and its log-probability float[N]."""
        if not callable(choices):
            likely = t5.score_each_ids(inputs, t5.target_ids(choices), **how)
            return [choices[i] for i in likely.argmax(axis=1)], likely.max(axis=1)
        rows = [tuple(choices(example)) for example in examples]
        for number, row in enumerate(rows):
            if not row:
                raise ValueError(f"example {number} has no answers to rank")
        counts = [len(row) for row in rows]
        targets = t5.target_ids([text for row in rows for text in row])
        scores = t5.score_ids(np.repeat(inputs, counts, axis=0), targets, **how)
        parts = np.split(scores, np.cumsum(counts)[:-1])
        best = [row[part.argmax()] for row, part in zip(rows, parts, strict=True)]
        return best, np.array([part.max() for part in parts])


def _add_changed(
    rows: Sequence[dict[str, Any]], text: str, name: str, values: Sequence[Any]
) -> None:
    """Sets `row[name]` to the row's value where that differs from `row[text]`."""
    for row, value in zip(rows, values, strict=True):
        if (kept := plain(value)) != row[text]:
            row[name] = kept
