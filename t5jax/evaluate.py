"""Evaluation with seqio: metrics of what a model writes and of what it ranks first, its loss."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from t5jax import host, user_code
from t5jax.config import LengthsConfig
from t5jax.knobs import Range, check_value, names_of
from t5jax.run_folder import PREDICTIONS, RESULTS
from t5jax.tasks.faults import check_features, checked, reading
from t5jax.tasks.measuring import check_metrics, metrics_of, names_of_values, postprocessed
from t5jax.tasks.metrics import bits_per_byte, perplexity
from t5jax.tasks.metrics.base import is_built_in
from t5jax.tasks.metrics.examples import Measured, numbers_of
from t5jax.tasks.metrics.resampling import check_bootstrap, unit_intervals
from t5jax.tasks.ranking import AnswersOf, answers_of
from t5jax.tasks.registry import evaluator, seqio_vocabulary, with_vocabulary
from t5jax.text2text import Text2Text
from t5jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task's metrics, how they were computed, and one object an example.

    A prediction has `inputs`, `targets`, `prediction` and `target_score`; `ranked` is the best of
    the task's answers, where they were ranked. `expected`, `answer` and `ranked_answer` are what
    metrics saw of targets, prediction and ranked, where the task's postprocessor changed them.
    `statistics` and `scores` are the metrics' parts in the example (`tasks.metrics.examples`), and
    `ranked_statistics` and `ranked_scores` those of `ranked`.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    about: dict[str, Any]


class Evaluation:
    """Tasks with their examples read, tokenized and kept, to be run on any number of models.

    Args:
      names: registered tasks or mixtures, a list or divided by commas; a mixture stands for those
        of its tasks that have the split and a metric.
      vocabulary: the model's.
      split: of every task.
      lengths: longer inputs and targets are cut; None: nothing is.
      examples: first examples of each task; None: all.
      batch: rows decoded at a time.
      rank: for tasks whose answers are known (`t5jax.tasks.ranking`), score every answer too,
        and compute the metrics of the best as well, as `rank_<metric>`.
      confidence: the level of bootstrap intervals, `<metric>_low` and `<metric>_high`; None: none.
      resamples: of the bootstrap, seeded.

    Raises:
      ValueError: an unknown task, or one that has no such split or no metric; nothing to rank; a
        confidence or a number of resamples that makes no interval.
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
        self.evaluators = []
        asked: dict[str, str] = {}
        theirs = seqio_vocabulary(vocabulary)
        for name in names:
            provider = with_vocabulary(name, theirs)
            tasks = seqio.get_subtasks(provider)
            if isinstance(provider, seqio.Mixture):
                fit = [task for task in tasks if split in task.splits and task.metric_objs]
                tasks = fit or tasks
            for task in tasks:
                first = asked.setdefault(task.name, name)
                if first != name and ":" in first + name:
                    # Tasks of files are called after the file, without its folder.
                    raise ValueError(
                        f"{first} and {name} would both be called {task.name}; rename a file, or "
                        "evaluate them one after the other"
                    )
                if split not in task.splits:
                    raise ValueError(
                        f"task {task.name} has no split {split!r}; it has {', '.join(task.splits)}"
                    )
                check_metrics(task)
                cut = None if lengths is None else dataclasses.asdict(lengths)
                check_features(task, cut)
                with reading(task, split, cut):
                    made = evaluator(
                        task,
                        seqio.EncDecFeatureConverter(pack=False),
                        eval_split=split,
                        sequence_length=cut,
                        num_examples=examples,
                        async_compute_metrics=False,
                    )
                    read = made.cached_task_datasets[task.name].as_numpy_iterator()
                    for _ in checked(task, split, cut, read):
                        pass
                self.evaluators.append(made)
        evaluated = [each.eval_tasks[0].name for each in self.evaluators]
        if rank and not any(map(answers_of, evaluated)):
            raise ValueError(
                f"no answers to rank are known for {', '.join(evaluated)}; "
                "t5jax.tasks.ranking.set_answers declares one"
            )

    def run(self, t5: Text2Text, **options: Any) -> dict[str, TaskResult]:
        """Every task's result, by name; `options` are those of `Text2Text.generate`."""
        return dict(self._task(each, t5, options) for each in self.evaluators)

    def value_names(self, examples: int | None = None) -> dict[str, list[str]]:
        """The names of the values that each task's metrics have, by task, without a model.

        Each metric is given the first `examples` targets as the predictions, or all of them where
        it cannot do with these. Raises ValueError for a metric that fails on them.
        """
        names = {}
        for each in self.evaluators:
            (task,) = each.eval_tasks
            rows = list(each.cached_task_datasets[task.name].as_numpy_iterator())
            texts = [_text(row, "targets", self.vocabulary) for row in rows]
            try:
                found = names_of_values(task, texts[:examples], rows[:examples])
            except ValueError:  # of one class perhaps, where it needs two
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
        self, each: seqio.Evaluator, t5: Text2Text, options: Mapping[str, Any]
    ) -> tuple[str, TaskResult]:
        (task,) = each.eval_tasks
        rows = [row for _, row in each.cached_model_datasets[task.name].as_numpy_iterator()]
        if not rows:
            raise ValueError(f"task {task.name}: the split to evaluate is empty")
        inputs, targets = (
            # seqio pads with 0, whatever the model does.
            np.where(ids == 0, t5.config.pad_token_id, ids)
            for ids in (
                np.stack([row[name] for row in rows])
                for name in ("encoder_input_tokens", "decoder_target_tokens")
            )
        )
        scores = t5.score_ids(inputs, targets, batch_size=self.batch)
        generated = t5.generate_ids(inputs, batch_size=self.batch, **options)
        predicted, predicted_scores = generated.ids[:, 0], generated.scores[:, 0]

        examples = list(each.cached_task_datasets[task.name].as_numpy_iterator())
        texts = [_text(example, "targets", self.vocabulary) for example in examples]
        written = [self.vocabulary.decode(ids.tolist()) for ids in predicted]
        expected = postprocessed(task, texts, examples, is_target=True)
        answers = postprocessed(task, written, examples)
        predictions = [
            {
                "inputs": _text(example, "inputs", self.vocabulary),
                "targets": target,
                "prediction": prediction,
                "target_score": float(score),
            }
            for example, target, prediction, score in zip(
                examples, texts, written, scores, strict=True
            )
        ]
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
        objects = _of_objects(each, task, predicted, predicted_scores, scores)
        values.add("a metric object", {k: v for k, v in objects.items() if k not in values.by_name})

        choices = answers_of(task.name)
        if self.rank and choices is not None:
            with user_code.running(f"task {task.name}: answers"):
                best, best_scores = self._best(t5, inputs, choices, examples)
            answers = postprocessed(task, best, examples)
            for row, text in zip(predictions, best, strict=True):
                row["ranked"] = text
            _add_changed(predictions, "ranked", "ranked_answer", answers)
            ranked = metrics_of(task, expected, answers, scores, best_scores)
            self._add(values, ranked, predictions, "rank_")
            about["rank_per_example"] = {one.name: one.kind for one in ranked}

        values.add("every evaluation", _losses(t5, scores, targets, texts))
        values.add("every evaluation", {"examples": len(rows)})
        for fn in filter(is_built_in, task.predict_metric_fns):
            if fn.signature is not None:
                about[f"{fn.name}_signature"] = fn.signature(expected)
        if cut := self._cut(examples, texts):
            about["targets_cut"] = cut
        if self.confidence is not None:
            about |= {"confidence": self.confidence, "resamples": self.resamples}
        about["options"] = _plain(options)
        return task.name, TaskResult(values.by_name, predictions, about)

    def _add(
        self,
        values: Values,
        measured: Sequence[Measured],
        predictions: Sequence[dict[str, Any]],
        prefix: str = "",
    ) -> None:
        """Adds metrics' values, their intervals if wanted, and to each example its parts."""
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
    ) -> tuple[list[str], np.ndarray]:
        """The likeliest of each example's answers, and its log-probability, float[N]."""
        if not callable(choices):
            likely = t5.score_each_ids(inputs, t5.target_ids(choices), batch_size=self.batch)
            return [choices[i] for i in likely.argmax(axis=1)], likely.max(axis=1)
        rows = [tuple(choices(example)) for example in examples]
        for number, row in enumerate(rows):
            if not row:
                raise ValueError(f"example {number} has no answers to rank")
        counts = [len(row) for row in rows]
        targets = t5.target_ids([text for row in rows for text in row])
        scores = t5.score_ids(np.repeat(inputs, counts, axis=0), targets, batch_size=self.batch)
        parts = np.split(scores, np.cumsum(counts)[:-1])
        best = [row[part.argmax()] for row, part in zip(rows, parts, strict=True)]
        return best, np.array([part.max() for part in parts])

    def _cut(self, examples: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> int:
        """Targets that are longer than `lengths`, so that metrics see less than there is."""
        return sum(
            1
            for example, text in zip(examples, texts, strict=True)
            # Only those that fill their length need to be tokenized again.
            if self.lengths is not None
            and len(example["targets"]) == self.lengths.targets
            and "targets_pretokenized" in example
            and len(self.vocabulary.encode(text))
            > np.count_nonzero(example["targets"] != self.vocabulary.eos_id)
        )


# What metrics.json says beside the values of a task's metrics.
_ABOUT = (
    "task metrics per_example rank_per_example options confidence resamples targets_cut split step "
    "checkpoint"
).split()


class Values:
    """A task's values by name, each of which has one origin."""

    def __init__(self, task: str) -> None:
        self.by_name: dict[str, float] = {}
        self._task = task
        self._origins = dict.fromkeys(_ABOUT, "metrics.json itself")

    def add(self, origin: str, values: Mapping[str, float]) -> None:
        """Raises ValueError for a name that something else has given already."""
        for name, value in values.items():
            if name in self._origins:
                raise ValueError(
                    f"task {self._task}: {self._origins[name]} and {origin} both have a value "
                    f"called {name!r}; let the task's metric call its own otherwise"
                )
            self.by_name[name] = value
        self._origins |= dict.fromkeys(values, origin)


def _of_objects(
    each: seqio.Evaluator,
    task: seqio.Task,
    predicted: np.ndarray,
    predicted_scores: np.ndarray,
    scores: np.ndarray,
) -> dict[str, float]:
    """Values of a task with `metric_objs`, which seqio computes: of those, and of its functions."""
    if len(task.metric_objs) == len(task.metric_fns):
        return {}
    order = range(len(predicted))  # ours is seqio's
    with user_code.running(f"task {task.name}: metric_objs"):
        results, _ = each.evaluate(
            compute_metrics=True,
            predict_fn=lambda _: list(zip(order, predicted, strict=True)),
            score_fn=lambda _: list(zip(order, scores, strict=True)),
            predict_with_aux_fn=lambda _: (
                list(zip(order, predicted, strict=True)),
                {"scores": predicted_scores.tolist()},
            ),
        )
        return numbers_of(results.result()[task.name], "metric_objs")


def _add_changed(
    rows: Sequence[dict[str, Any]], text: str, name: str, values: Sequence[Any]
) -> None:
    """Adds to each row its value, under `name`, unless it is the row's text."""
    for row, value in zip(rows, values, strict=True):
        if (plain := _plain(value)) != row[text]:
            row[name] = plain


LOSSES = ("loss", "perplexity", "bits_per_byte", "examples")


def _losses(
    t5: Text2Text, scores: np.ndarray, targets: np.ndarray, texts: Sequence[str]
) -> dict[str, float]:
    """float[B] log-probabilities of the targets int[B, T] -> what they come to, a token and a byte.

    The end of a text costs bits too, and has no byte.
    """
    nats = -float(scores.sum())
    rows = [ids[ids != t5.config.pad_token_id].tolist() for ids in targets]
    tokens = max(sum(map(len, rows)), 1)
    size = sum(
        # A target that was cut is only a part of its text.
        len((text if t5.config.eos_token_id in ids else t5.vocabulary.decode(ids)).encode())
        for ids, text in zip(rows, texts, strict=True)
    )
    values = {"loss": nats / tokens, "perplexity": perplexity(nats, tokens)}
    if size:
        values["bits_per_byte"] = bits_per_byte(nats, size)
    return values


def _plain(value: Any) -> Any:
    """A postprocessor's result as what JSON can hold."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _text(example: Mapping[str, Any], name: str, vocabulary: Vocabulary) -> str:
    text = example.get(f"{name}_pretokenized")
    if isinstance(text, bytes):
        return text.decode("utf-8")
    return vocabulary.decode(np.asarray(example[name]).tolist())


def write_results(
    folder: str | Path, results: Mapping[str, TaskResult], about: Mapping[str, Any] | None = None
) -> None:
    """FOLDER/<task>/metrics.json (with `about` in it) and predictions.jsonl, each whole or old.

    A metric that is not defined on these predictions (nan), or infinite, is written as null.
    """
    for name, result in results.items():
        place = Path(folder) / name
        metrics = {k: v if math.isfinite(v) else None for k, v in result.metrics.items()}
        content = {**(about or {}), **result.about, **metrics}
        host.replace(place / RESULTS, [json.dumps(content, indent=2)])
        lines = (json.dumps(row, ensure_ascii=False) for row in result.predictions)
        host.replace(place / PREDICTIONS, lines)
