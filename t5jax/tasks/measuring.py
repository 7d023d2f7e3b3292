"""A task's metrics of a model's predictions and of the targets' log-probabilities."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import seqio

from t5jax import user_code
from t5jax.knobs import short
from t5jax.tasks.faults import Example
from t5jax.tasks.metrics.base import Values, name_of
from t5jax.tasks.metrics.examples import Measured, measure, numbers_of

# A metric of a task: its unique name, its function of (targets, outputs), and the outputs.
Part = tuple[str, Callable[..., Values], Sequence[Any]]


def check_metrics(task: seqio.Task) -> None:
    """Raises ValueError if the task has no metric, or a metric that seqio refuses."""
    try:
        there = bool(task.metric_objs)
    except ValueError as error:
        raise ValueError(f"task {task.name}: {error}") from error
    if not there:
        raise ValueError(f"task {task.name} has no metrics to evaluate it by")


def postprocessed(
    task: seqio.Task, texts: Sequence[str], examples: Sequence[Example], is_target: bool = False
) -> list[Any]:
    """Targets or predictions after the task's postprocessor."""
    if not (is_target or task.predict_metric_fns or task.predict_with_aux_metric_fns):
        return list(texts)  # no metric uses predictions, and the postprocessor may not fit them
    values = []
    for number, (text, example) in enumerate(zip(texts, examples, strict=True)):
        what = f"task {task.name}: postprocessor, example {number}, {short(text)}"
        with user_code.running(what):
            values.append(task.postprocess_fn(text, example=example, is_target=is_target))
    return values


def metrics_of(
    task: seqio.Task,
    targets: Sequence[Any],
    answers: Sequence[Any],
    scores: np.ndarray,
    answer_scores: np.ndarray,
) -> list[Measured]:
    """The values of the task's `metric_fns`, in seqio's order.

    Args:
      task: the task.
      targets, answers: N postprocessed targets and predictions.
      scores: float[N], log p of the targets, for functions of (targets, scores).
      answer_scores: float[N], log p of the predictions: `aux_values["scores"]` for functions of
        (targets, predictions, aux_values).
    """
    measured = []
    for name, function, outputs in _parts(task, answers, scores, answer_scores):
        with telling(f"task {task.name}: metric {name}", targets, outputs):
            measured.append(dataclasses.replace(measure(function, targets, outputs), name=name))
    return measured


def names_of_values(
    task: seqio.Task, texts: Sequence[str], examples: Sequence[Example]
) -> dict[str, list[str]]:
    """The names of each metric's values, found with the targets as predictions."""
    targets = postprocessed(task, texts, examples, is_target=True)
    answers = postprocessed(task, texts, examples)
    scores = -1.0 - np.arange(len(texts)) / max(len(texts), 1)
    names = {}
    for name, function, outputs in _parts(task, answers, scores, scores):
        with telling(f"task {task.name}: metric {name}", targets, outputs):
            names[name] = list(numbers_of(function(list(targets), list(outputs)), name))
    return names


def _parts(
    task: seqio.Task, answers: Sequence[Any], scores: np.ndarray, answer_scores: np.ndarray
) -> Iterator[Part]:
    pairs = list(zip(answers, answer_scores.tolist(), strict=True))
    groups: list[tuple[Sequence[Callable[..., Values]], Sequence[Any]]] = [
        (task.predict_metric_fns, answers),
        (task.score_metric_fns, scores.tolist()),
        ([_with_scores(function) for function in task.predict_with_aux_metric_fns], pairs),
    ]
    seen: collections.Counter[str] = collections.Counter()
    for functions, outputs in groups:
        for function in functions:
            name = name_of(function)
            seen[name] += 1
            yield name if seen[name] == 1 else f"{name}_{seen[name]}", function, outputs


def _with_scores(function: Callable[..., Values]) -> Callable[..., Values]:
    """A function of (targets, predictions, aux_values) -> of (targets, scored predictions)."""

    @functools.wraps(function, updated=())
    def scored(targets: Sequence[Any], pairs: Sequence[tuple[Any, float]]) -> Values:
        answers = [answer for answer, _ in pairs]
        return function(targets, answers, {"scores": np.array([score for _, score in pairs])})

    scored.__name__ = name_of(function)
    return scored


@contextlib.contextmanager
def telling(what: str, targets: Sequence[Any], outputs: Sequence[Any]) -> Iterator[None]:
    """Turns a metric's errors into ValueErrors that begin with `what`."""
    try:
        with user_code.running(what):
            yield
    except user_code.UserCodeError:
        raise
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError(
            f"{what} does not fit targets like {short(targets[0])} and predictions like "
            f"{short(outputs[0])}: {type(error).__name__}: {error}"
        ) from error
