"""Metrics: functions of targets and predictions, for seqio's `metric_fns`.

Each is a callable `Metric`, described by its `about`. T5 task metrics, BLEU, chrF and ROUGE: 0-100.
Exact match, areas under curves and error rates: 0-1. All raise ValueError for no targets and for
lists of different lengths. An empty prediction is a prediction.

A metric is declared in its file by `built_in`, and is then an attribute of this package.
"""

from __future__ import annotations

from typing import Any

from t5jax.tasks.metrics import (
    classification,
    correlation,
    edit_distance,
    inflection,
    question_answering,
    summarization,
    translation,
)
from t5jax.tasks.metrics.base import (
    METRICS,
    Grouped,
    Metric,
    Pooled,
    Scored,
    Statistics,
    as_metric,
    find,
)
from t5jax.tasks.metrics.classification import each_class_f1, mean_multiclass_f1
from t5jax.tasks.metrics.edit_distance import nearest
from t5jax.tasks.metrics.inflection import Inflection, by_rule
from t5jax.tasks.metrics.language_modeling import bits_per_byte, perplexity

__all__ = [
    "METRICS",
    "Grouped",
    "Inflection",
    "Metric",
    "Pooled",
    "Scored",
    "Statistics",
    "as_metric",
    "bits_per_byte",
    "by_rule",
    "classification",
    "correlation",
    "each_class_f1",
    "edit_distance",
    "find",
    "inflection",
    "mean_multiclass_f1",
    "nearest",
    "perplexity",
    "question_answering",
    "summarization",
    "translation",
]


def __getattr__(name: str) -> Any:
    """A built-in metric: `from t5jax.tasks.metrics import bleu`."""
    if name in METRICS:
        return METRICS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *METRICS})
