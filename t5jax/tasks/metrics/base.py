"""`Metric`: a row of statistics for each example, and the values of all rows.

Statistics of shards merge, and confidence intervals resample them without processing texts again.
Three kinds:

- `Metric`: rows of numbers that are summed (counts, n-gram matches, scores with their number);
- `Grouped`: rows that are first combined to a row per group (all answers to one question);
- `Pooled`: rows that are needed together (ranks of a correlation).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from t5jax.knobs import nearest

Target = str | Sequence[str]
Row = tuple[Any, ...]
Values = Mapping[str, float]

METRICS: dict[str, Metric] = {}
_FAMILIES: dict[str, Callable[[int], Metric]] = {}
M = TypeVar("M", bound="Metric")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A function of targets and predictions for seqio's `metric_fns`.

    Args:
      name: its name for `t5jax compare --metric`.
      about: its measure, scale and definition.
      example: (target, prediction) -> the example's row, K numbers.
      value: float64[K], the sum of all rows -> values by name.
      signature: all targets -> the settings that a paper should quote; None: none.

    Raises:
      ValueError: when called with no targets, or another number of predictions.
    """

    name: str
    about: str
    example: Callable[[Any, Any], Sequence[Any]]
    value: Callable[[Any], Values]
    signature: Callable[[Sequence[Any]], str] | None = dataclasses.field(default=None, kw_only=True)

    def __call__(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        return self.statistics(targets, predictions).compute()

    def statistics(self, targets: Sequence[Any], predictions: Sequence[Any]) -> Statistics:
        """The statistics of some examples."""
        return Statistics(self, self.reduce(self.rows(targets, predictions)))

    def rows(self, targets: Sequence[Any], predictions: Sequence[Any]) -> list[Row]:
        """One row an example."""
        check(targets, predictions)
        return [tuple(self.example(t, p)) for t, p in zip(targets, predictions, strict=True)]

    def reduce(self, rows: Sequence[Row]) -> list[Row]:
        """The fewest rows with the same values, alone and merged with other rows."""
        return [tuple(np.sum(np.asarray(rows, np.float64), axis=0).tolist())]

    def units(self, rows: Sequence[Row]) -> np.ndarray:
        """Rows -> the units of resampling, float64[U, K]: by default one an example."""
        return np.asarray(rows, np.float64)

    def of_units(self, units: np.ndarray, counts: np.ndarray) -> dict[str, float]:
        """The values with each of U units taken int[U] times."""
        return _floats(self.value(counts @ units))


@dataclasses.dataclass(frozen=True)
class Grouped(Metric):
    """A metric whose rows begin with a hashable group, or None.

    `group` combines a group's rows to one row of K numbers; `value` takes the sum of these. A row
    without a group is a group of its own. Resampling draws groups, because examples of a group are
    not independent.
    """

    group: Callable[[Sequence[Row]], Sequence[float]]

    def reduce(self, rows: Sequence[Row]) -> list[Row]:
        return list(rows)

    def units(self, rows: Sequence[Row]) -> np.ndarray:
        groups: dict[Any, list[Row]] = {}
        for i, row in enumerate(rows):
            groups.setdefault((i, None) if row[0] is None else row[0], []).append(row)
        return np.asarray([self.group(group) for group in groups.values()], np.float64)


@dataclasses.dataclass(frozen=True)
class Pooled(Metric):
    """A metric whose `value` takes all N rows of K numbers: float64[N, K]."""

    def reduce(self, rows: Sequence[Row]) -> list[Row]:
        return list(rows)

    def of_units(self, units: np.ndarray, counts: np.ndarray) -> dict[str, float]:
        return _floats(self.value(np.repeat(units, counts, axis=0)))


class Scored(Pooled):
    """A pooled metric of scores float[N], log p of each target, in place of predictions.

    seqio recognizes it by the argument's name.
    """

    def __call__(self, targets: Sequence[Any], scores: Sequence[float]) -> dict[str, float]:
        return self.statistics(targets, scores).compute()


class Opaque(Pooled):
    """A pooled metric of arbitrary rows: `value` takes an object[N] of tuples."""

    def units(self, rows: Sequence[Row]) -> np.ndarray:
        units = np.empty(len(rows), object)
        units[:] = list(rows)
        return units


@dataclasses.dataclass(frozen=True)
class Statistics:
    """The mergeable statistics of some examples: one summed row, or a row an example."""

    metric: Metric
    rows: list[Row]

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both's examples. Raises ValueError for different metrics."""
        if self.metric != other.metric:
            raise ValueError(
                f"statistics of {self.metric.name} and {other.metric.name} do not merge"
            )
        return Statistics(self.metric, self.metric.reduce([*self.rows, *other.rows]))

    def compute(self) -> dict[str, float]:
        units = self.metric.units(self.rows)
        return self.metric.of_units(units, np.ones(len(units), np.int64))


def built_in(metric: M) -> M:
    """Declares a metric of this package: `t5jax.tasks.metrics.NAME`, `compare --metric NAME`."""
    if METRICS.setdefault(metric.name, metric) is not metric:
        raise ValueError(f"there is a metric {metric.name!r} already")
    return metric


def family(pattern: str) -> Callable[[Callable[[int], M]], Callable[[int], M]]:
    """Declares a function of the number of classes as metrics named by `pattern`, with `<n>`."""

    def declare(make: Callable[[int], M]) -> Callable[[int], M]:
        cached = functools.cache(make)
        _FAMILIES[pattern] = cached
        return cached

    return declare


def find(name: str) -> Metric:
    """The built-in metric called `name`; `mean_<n>class_f1` and `each_<n>class_f1` for any n.

    Raises:
      ValueError: there is none; the message has the nearest names.
    """
    if name in METRICS:
        return METRICS[name]
    for pattern, make in _FAMILIES.items():
        number = re.fullmatch(pattern.replace("<n>", r"([2-9]|[1-9]\d{1,3})"), name)
        if number:
            return make(int(number[1]))
    known = [*METRICS, *_FAMILIES]
    there = f"there are {', '.join(sorted(known))}"
    raise ValueError(
        f"no metric is called {name!r}; {nearest(name, known, most=3, otherwise=there)}"
    )


def is_built_in(function: Callable[..., Values]) -> bool:
    """Whether it is the built-in metric, not another function of the same name."""
    if not isinstance(function, Metric):
        return False
    try:
        return find(function.name) is function
    except ValueError:
        return False


def as_metric(function: Callable[..., Values]) -> Metric:
    """A user's function of (targets, predictions) as a metric; a metric unchanged."""
    if isinstance(function, Metric):
        return function

    def value(rows: Sequence[Row]) -> Values:
        return function([target for target, _ in rows], [prediction for _, prediction in rows])

    about = "a function of all targets and predictions"
    return Opaque(name_of(function), about, _pair, value)


def name_of(function: Callable[..., Values]) -> str:
    """A metric's name, or a function's, also inside a functools.partial."""
    if isinstance(function, Metric):
        return function.name
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__).strip("<>")


def check(targets: Sequence[object], predictions: Sequence[object]) -> None:
    """Raises ValueError for lists of different lengths, or of none."""
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    if not len(targets):
        raise ValueError("no targets: a metric over nothing is not defined")


def accepted(target: Target) -> Sequence[str]:
    """All right texts of a target: one text, or a sequence.

    Raises:
      ValueError: an empty sequence.
    """
    if not isinstance(target, list | tuple | np.ndarray):
        return (target,)  # type: ignore
    if not len(target):
        raise ValueError("a target without a single accepted text; no prediction could be right")
    return target


def fraction(name: str) -> Callable[[np.ndarray], Values]:
    """Rows (part, whole), summed -> their ratio."""
    return lambda total: {name: total[0] / total[1]}


def percentages(*names: str) -> Callable[[np.ndarray], Values]:
    """Rows (score, score, …, 1), summed -> the mean scores times 100."""
    return lambda total: {
        name: 100 * score / total[-1] for name, score in zip(names, total[:-1], strict=True)
    }


def _pair(target: Any, prediction: Any) -> Row:
    return target, prediction


def _floats(values: Values) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
