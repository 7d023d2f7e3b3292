"""Metrics of class labels, in percent as T5 reports them, by scikit-learn.

A label is a class id, from 0; T5's postprocessors give -1 for a text that is not a class.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from t5jax.tasks.metrics.base import (
    Metric,
    Pooled,
    Row,
    Scored,
    Values,
    built_in,
    family,
    percentages,
)
from t5jax.tasks.metrics.correlation import number


def _score(name: str, *labels: Any, **options: Any) -> Any:
    """A function of sklearn.metrics, imported here because that takes a second."""
    import sklearn
    import sklearn.metrics

    # Checking arguments takes a third of the time on four cells; resampling calls it often.
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True):
        return getattr(sklearn.metrics, name)(*labels, **options)


def binary_cells(target: int, prediction: object) -> tuple[int, int, int, int]:
    """A confusion matrix (00, 01, 10, 11) of one example; an invalid prediction is wrong, as in T5.

    Raises:
      ValueError: a target other than 0 and 1.
    """
    if target not in (0, 1):
        raise ValueError(f"target {target!r} must be 0 or 1")
    predicted = prediction if prediction in (0, 1) else 1 - target
    cells = [0, 0, 0, 0]
    cells[2 * int(target) + int(predicted)] = 1
    return cells[0], cells[1], cells[2], cells[3]


def binary_f1(cells: np.ndarray) -> Values:
    """Confusion matrix float[4] -> `f1` of class 1; 0 if the class does not occur."""
    f1 = _score("f1_score", [0, 0, 1, 1], [0, 1, 0, 1], sample_weight=cells, zero_division=0.0)
    return {"f1": 100 * f1}


@family("mean_<n>class_f1")
def mean_multiclass_f1(num_classes: int) -> Metric:
    """The metric `mean_<n>class_f1`: the mean F1 of all classes, in percent.

    A prediction that is not a class is a miss of the target's class.
    """
    name = f"mean_{num_classes}class_f1"
    about = f"`{name}`: the unweighted mean of the F1 of each of the classes, in percent."
    return _of_cells(num_classes, name, about, lambda each: {name: float(np.mean(each))})


@family("each_<n>class_f1")
def each_class_f1(num_classes: int) -> Metric:
    """The metric `each_<n>class_f1`: `f1_class_0`, …, the F1 of each class, in percent.

    A prediction that is not a class is a miss of the target's class. A class that does not occur
    has 0.
    """

    def values(each: np.ndarray) -> Values:
        return {f"f1_class_{i}": float(f1) for i, f1 in enumerate(each)}

    name = f"each_{num_classes}class_f1"
    return _of_cells(num_classes, name, "`f1_class_<i>`: the F1 of class i, in percent.", values)


def _of_cells(
    num_classes: int, name: str, about: str, values: Callable[[np.ndarray], Values]
) -> Metric:
    """A metric of the F1 of each class in percent, float64[num_classes]."""

    def example(target: int, prediction: object) -> list[int]:
        if target not in classes:
            raise ValueError(f"target {target!r} must be a class, 0 to {num_classes - 1}")
        predicted = int(prediction) if prediction in classes else num_classes  # type: ignore
        return [int((target, predicted) == cell) for cell in cells]

    def value(total: np.ndarray) -> Values:
        each = _score(
            "f1_score",
            [target for target, _ in cells],
            [predicted for _, predicted in cells],
            labels=classes,
            average=None,
            sample_weight=total,
            zero_division=0.0,
        )
        return values(100 * np.asarray(each))

    classes = range(num_classes)
    cells = [(t, p) for t in classes for p in range(num_classes + 1)]
    return Metric(name, about, example, value)


built_in(mean_multiclass_f1(3))


def _class_ids(target: Any, prediction: Any) -> Row:
    if not isinstance(target, numbers.Real):
        raise ValueError(f"target {target!r} must be the number of a class")
    return float(target), float(prediction) if isinstance(prediction, numbers.Real) else -1.0


def _matthews(pairs: np.ndarray) -> Values:
    labels, numbered = np.unique(pairs, return_inverse=True)
    if len(labels) == 1:  # scikit-learn would warn
        return {"matthews_corrcoef": 0.0}
    targets, predictions = numbered.reshape(pairs.shape).T
    counts = np.bincount(targets * len(labels) + predictions, minlength=len(labels) ** 2)
    cells = np.indices((len(labels), len(labels))).reshape(2, -1)
    coefficient = _score("matthews_corrcoef", *cells, sample_weight=counts)
    return {"matthews_corrcoef": 100 * coefficient}


accuracy = built_in(
    Metric(
        "accuracy",
        "`accuracy`: the percentage of predictions that equal their target.",
        lambda target, prediction: (target == prediction, 1),
        percentages("accuracy"),
    )
)
f1_score_with_invalid = built_in(
    Metric(
        "f1_score_with_invalid",
        "`f1`: the F1 of class 1, in percent; a prediction other than 0 and 1 counts as wrong.",
        binary_cells,
        binary_f1,
    )
)
matthews_corrcoef = built_in(
    Pooled(
        "matthews_corrcoef",
        "`matthews_corrcoef`: Matthews' correlation of all classes that occur, times 100; as in "
        "T5, -1 counts as a class. 0 if all targets or all predictions are the same.",
        _class_ids,
        _matthews,
    )
)


def _binary_score(target: Any, score: Any) -> Row:
    if target not in (0, 1):
        raise ValueError(f"target {target!r} must be 0 or 1")
    return int(target), number(score)


def _areas(pairs: np.ndarray) -> Values:
    targets, scores = pairs.T
    if len(set(targets.tolist())) == 1:  # undefined without both classes
        return {"auc-roc": math.nan, "auc-pr": math.nan}
    return {
        "auc-roc": _score("roc_auc_score", targets, scores),
        "auc-pr": _score("average_precision_score", targets, scores),
    }


_AREAS = (
    "`auc-roc`, `auc-pr`: the areas under the ROC and the precision-recall curve (average "
    "precision) of {}, for targets 0 and 1. 0-1; nan if all targets are the same."
)
auc = built_in(Pooled("auc", _AREAS.format("predictions that are numbers"), _binary_score, _areas))
score_auc = built_in(
    Scored("score_auc", _AREAS.format("log p of the targets"), _binary_score, _areas)
)
