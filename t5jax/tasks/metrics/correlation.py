"""Correlations times 100, as T5 reports them, by scipy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from t5jax.tasks.metrics.base import Pooled, Row, Values, built_in

# T5's postprocessor gives it for a text that is not a number.
NO_NUMBER = -1.0


def number(value: Any) -> float:
    """A number or its text as a float; -1 for any other text, also "nan" and "inf".

    T5 accepts "nan"; one such prediction makes its correlations nan.
    """
    try:
        parsed = float(value)
    except ValueError:
        return NO_NUMBER
    return parsed if math.isfinite(parsed) else NO_NUMBER


def _pair(target: Any, prediction: Any) -> Row:
    return number(target), number(prediction)


def _correlation(name: str, function: str) -> Callable[[np.ndarray], Values]:
    def value(pairs: np.ndarray) -> Values:
        import scipy.stats

        # scipy warns or raises if the correlation is undefined.
        if (pairs == pairs[0]).all(axis=0).any():
            return {name: math.nan}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.stats.NearConstantInputWarning)
            return {name: 100 * getattr(scipy.stats, function)(*pairs.T)[0]}

    return value


pearson_corrcoef = built_in(
    Pooled(
        "pearson_corrcoef",
        "`pearson_corrcoef`: Pearson's correlation times 100; nan where all targets or all "
        "predictions are the same.",
        _pair,
        _correlation("pearson_corrcoef", "pearsonr"),
    )
)
spearman_corrcoef = built_in(
    Pooled(
        "spearman_corrcoef",
        "`spearman_corrcoef`: Spearman's correlation of ranks times 100; nan where all targets "
        "or all predictions are the same.",
        _pair,
        _correlation("spearman_corrcoef", "spearmanr"),
    )
)
