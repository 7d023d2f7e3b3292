"""A metric's parts: values stored for each example, for resampling.

`t5jax compare` recomputes values from parts alone, without modules, tasks or texts:

- `statistics`: a built-in metric's rows, also of corpus metrics such as BLEU;
- `scores`: a user's function on single examples, if their mean is its value.

Other metrics of users have no parts.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5jax.tasks.metrics.base import (
    Metric,
    Row,
    Values,
    as_metric,
    check,
    is_built_in,
    name_of,
)

STATISTICS, SCORES = "statistics", "scores"
# Time limit in seconds for a user's function on single examples, beyond the time of one call.
LONGEST = 30.0


@dataclasses.dataclass(frozen=True)
class Measured:
    """A metric's values and parts of N examples.

    Attributes:
      name: the metric's name.
      values: values by name.
      metric, units: the metric and its units, for resampling.
      kind: of the parts, "statistics" or "scores"; or "none: " and the reason.
      parts: N parts as JSON values, or None.
    """

    name: str
    values: dict[str, float]
    metric: Metric
    units: np.ndarray
    kind: str
    parts: list[Any] | None


def measure(
    function: Callable[..., Values], targets: Sequence[Any], predictions: Sequence[Any]
) -> Measured:
    """Computes a built-in metric, or a user's metric or function.

    Raises:
      ValueError: the values are not a mapping from names to numbers; and errors of the metric.
    """
    name = name_of(function)
    if is_built_in(function):
        metric = as_metric(function)
        rows = metric.rows(targets, predictions)
        units = metric.units(rows)
        values = metric.of_units(units, np.ones(len(units), np.int64))
        return Measured(name, values, metric, units, STATISTICS, list(map(_plain_row, rows)))
    check(targets, predictions)
    values = numbers_of(function(list(targets), list(predictions)), name)
    singles = _singles(function, targets, predictions, values)
    if isinstance(singles, str):
        metric = as_metric(function)
        units = metric.units(metric.rows(targets, predictions))
        return Measured(name, values, metric, units, f"none: {singles}", None)
    metric, units = of_scores(name, singles)
    return Measured(name, values, metric, units, SCORES, singles)


def of_scores(name: str, scores: Sequence[Mapping[str, float]]) -> tuple[Metric, np.ndarray]:
    """Each example's values, by name -> a metric that is their mean, and its units.

    Raises:
      ValueError: examples with different names.
    """
    names = list(scores[0])
    for number, one in enumerate(scores, 1):
        if list(one) != names:
            raise ValueError(f"example {number} has values {list(one)}, the first has {names}")
    metric = Metric(name, "the mean over examples", _no_example, _means(names))
    return metric, np.array([[*one.values(), 1.0] for one in scores], np.float64)


def of_statistics(metric: Metric, parts: Sequence[Sequence[Any]]) -> np.ndarray:
    """A built-in metric's units from its stored parts."""
    return metric.units([tuple(map(_hashable, part)) for part in parts])


def numbers_of(values: Any, name: str) -> dict[str, float]:
    """A metric's values as numbers by name, without seqio's texts, images and the like.

    Raises:
      ValueError: not a mapping, or a value is not a number.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f"it returned {values!r}; a metric returns numbers by name: {{{name!r}: 0.5}}"
        )
    numbers = {}
    for key, value in values.items():
        if type(value).__module__ == "seqio.metrics":
            if type(value).__name__ != "Scalar":
                continue
            value = value.value
        try:
            numbers[str(key)] = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"its value {key!r} is {value!r}, which is no number") from None
    return numbers


def reproduces(found: float, expected: float | None) -> bool:
    """Whether two values are equal up to rounding; None stands for nan and infinities."""
    if expected is None or not math.isfinite(expected):
        return not math.isfinite(found)
    return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)


def _singles(
    function: Callable[..., Values],
    targets: Sequence[Any],
    predictions: Sequence[Any],
    values: Mapping[str, float],
) -> list[dict[str, float]] | str:
    """The function's values of each example, or why they are not its parts."""
    if not all(map(math.isfinite, values.values())) or not values:
        return "a value is not finite" if values else "it has no values"
    began = time.monotonic()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # for example, of a correlation over one example
            # The mean of single values must also be the value of half of the data.
            half = (len(targets) + 1) // 2
            of_half = numbers_of(function(list(targets[:half]), list(predictions[:half])), "")
            longest = LONGEST + time.monotonic() - began
            singles = []
            for target, prediction in zip(targets, predictions, strict=True):
                one = numbers_of(function([target], [prediction]), "")
                if one.keys() != values.keys() or not all(map(math.isfinite, one.values())):
                    return "it has no value of a single example"
                singles.append({name: one[name] for name in values})
                if time.monotonic() - began > longest:
                    return f"{len(singles)} single examples took more than {LONGEST:.0f} s"
    except Exception:  # a user's function may not work on few examples
        return "it has no value of a single example"
    for part, expected in ((singles, values), (singles[:half], of_half)):
        for name in values:
            mean = float(np.mean([one[name] for one in part]))
            if name not in expected or not reproduces(mean, expected[name]):
                return "the mean over single examples is not its value"
    return singles


def _means(names: Sequence[str]) -> Callable[[np.ndarray], Values]:
    def value(total: np.ndarray) -> Values:
        return {name: part / total[-1] for name, part in zip(names, total[:-1], strict=True)}

    return value


def _no_example(target: Any, prediction: Any) -> Row:
    raise TypeError("a mean of stored scores computes none anew")


def _plain_row(row: Row) -> list[Any]:
    return [_plain(value) for value in row]


def _plain(value: Any) -> Any:
    """A group or a number as JSON values."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
