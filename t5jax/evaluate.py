"""Evaluation with seqio: decoded metrics, teacher-forced loss, and the predictions themselves."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from t5jax.config import LengthsConfig
from t5jax.tasks.registry import evaluator, seqio_vocabulary, with_vocabulary
from t5jax.text2text import Text2Text
from t5jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task's metrics, and one object an example: inputs, targets, prediction, score."""

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]


class Evaluation:
    """Tasks with their examples read, tokenized and kept, to be run on any number of models.

    Args:
      names: registered tasks or mixtures; a mixture stands for its tasks.
      vocabulary: the model's.
      split: of every task.
      lengths: longer inputs and targets are cut; None: nothing is.
      examples: first examples of each task; None: all.
      batch: rows decoded at a time.

    Raises:
      ValueError: an unknown task, or one that has no such split or no metric.
    """

    def __init__(
        self,
        names: Sequence[str],
        vocabulary: Vocabulary,
        *,
        split: str = "validation",
        lengths: LengthsConfig | None = None,
        examples: int | None = None,
        batch: int = 256,
    ) -> None:
        self.vocabulary = vocabulary
        self.batch = batch
        self.evaluators = []
        theirs = seqio_vocabulary(vocabulary)
        for name in names:
            provider = with_vocabulary(name, theirs)
            for task in seqio.get_subtasks(provider):
                if split not in task.splits:
                    raise ValueError(
                        f"task {task.name} has no split {split!r}; it has {', '.join(task.splits)}"
                    )
                if not task.metric_objs:
                    raise ValueError(f"task {task.name} has no metrics to evaluate it by")
                self.evaluators.append(
                    evaluator(
                        task,
                        seqio.EncDecFeatureConverter(pack=False),
                        eval_split=split,
                        sequence_length=None if lengths is None else dataclasses.asdict(lengths),
                        num_examples=examples,
                        async_compute_metrics=False,
                    )
                )

    def run(self, t5: Text2Text, **options: Any) -> dict[str, TaskResult]:
        """Every task's result, by name; `options` are those of `Text2Text.generate`."""
        return dict(self._task(each, t5, options) for each in self.evaluators)

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
        predicted = t5.generate_ids(inputs, batch_size=self.batch, **options).ids[:, 0]

        # seqio asks for what its metrics need; both are computed already, and its order is ours.
        results, _ = each.evaluate(
            compute_metrics=True,
            predict_fn=lambda _: list(enumerate(predicted)),
            score_fn=lambda _: list(enumerate(scores)),
        )
        metrics = {name: float(v) for name, v in results.result()[task.name].items()}
        metrics["loss"] = float(-scores.sum() / max((targets != t5.config.pad_token_id).sum(), 1))
        metrics["examples"] = len(rows)
        texts = each.cached_task_datasets[task.name].as_numpy_iterator()
        predictions = [
            {
                "inputs": _text(text, "inputs", self.vocabulary),
                "targets": _text(text, "targets", self.vocabulary),
                "prediction": self.vocabulary.decode(ids.tolist()),
                "target_score": float(score),
            }
            for text, ids, score in zip(texts, predicted, scores, strict=True)
        ]
        return task.name, TaskResult(metrics, predictions)


def _text(example: Mapping[str, Any], name: str, vocabulary: Vocabulary) -> str:
    text = example.get(f"{name}_pretokenized")
    if isinstance(text, bytes):
        return text.decode("utf-8")
    return vocabulary.decode(np.asarray(example[name]).tolist())


def write_results(
    folder: Path, results: Mapping[str, TaskResult], about: Mapping[str, Any]
) -> None:
    """FOLDER/<task>/metrics.json (with `about` in it) and predictions.jsonl, each whole or old."""
    for name, result in results.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        _replace(place / "metrics.json", [json.dumps({**about, **result.metrics}, indent=2)])
        lines = (json.dumps(row, ensure_ascii=False) for row in result.predictions)
        _replace(place / "predictions.jsonl", lines)


def _replace(file: Path, lines: Sequence[str] | Iterator[str]) -> None:
    temporary = file.with_suffix(file.suffix + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        for line in lines:
            stream.write(line + "\n")
    os.replace(temporary, file)
