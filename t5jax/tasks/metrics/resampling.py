"""Bootstrap intervals, and significance tests of two systems on the same examples.

Draws are of a metric's units: examples, or groups of dependent examples. They are seeded, so the
same files give the same figures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from t5jax.knobs import Range, check_value
from t5jax.tasks.metrics.base import Metric

MOST_RESAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two systems' values of one metric, and the significance of second - first.

    `low` and `high` bound the difference. `bootstrap_p` is two-sided: twice the share of resamples
    whose difference is 0 or has the other sign (Koehn 2004 counts one side). `randomization_p` is
    the share of random exchanges of the systems' outputs with at least as great a difference in
    either direction (Noreen 1989). Both count the original data as one more draw, so neither is 0.
    Undefined values are nan.
    """

    first: float
    second: float
    low: float
    high: float
    bootstrap_p: float
    randomization_p: float

    @property
    def difference(self) -> float:
        return self.second - self.first


def confidence_intervals(
    metric: Metric,
    targets: Sequence[Any],
    predictions: Sequence[Any],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap: (low, high) of each of the metric's values.

    Resamples with an undefined value are skipped for it.

    Raises:
      ValueError: an invalid level or number of resamples.
    """
    return unit_intervals(
        metric,
        metric.units(metric.rows(targets, predictions)),
        level=level,
        resamples=resamples,
        seed=seed,
    )


def unit_intervals(
    metric: Metric, units: np.ndarray, *, level: float, resamples: int, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """`confidence_intervals` of a metric's units."""
    check_bootstrap(level, resamples, seed)
    draws = _draws(len(units), resamples, seed)
    names = metric.of_units(units, np.ones(len(units), np.int64))
    values = _values((_of_draw(metric, units, counts) for counts in draws), names)
    return {name: _interval(column, level) for name, column in values.items()}


def compare(
    metric: Metric,
    targets: Sequence[Any],
    first: Sequence[Any],
    second: Sequence[Any],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Two systems' predictions for the same targets -> the `Difference` of each value.

    Raises:
      ValueError: as `confidence_intervals`, and for different numbers of predictions.
    """
    one, two = (metric.units(metric.rows(targets, p)) for p in (first, second))
    return compare_units(metric, one, two, level=level, resamples=resamples, seed=seed)


def compare_units(
    metric: Metric, one: np.ndarray, two: np.ndarray, *, level: float, resamples: int, seed: int = 0
) -> dict[str, Difference]:
    """`compare` of two systems' units; unit i of both is of the same example or group."""
    check_bootstrap(level, resamples, seed)
    if len(one) != len(two):
        raise ValueError(f"{len(one)} units of the first system, {len(two)} of the second")
    whole = np.ones(len(one), np.int64)
    value_one, value_two = metric.of_units(one, whole), metric.of_units(two, whole)
    names = [name for name in value_one if name in value_two]

    def differences(pairs: Iterable[tuple[dict, dict]]) -> dict[str, np.ndarray]:
        rows = ({k: b[k] - a[k] for k in a.keys() & b.keys()} for a, b in pairs)
        return _values(rows, names)

    drawn = differences(
        (_of_draw(metric, one, counts), _of_draw(metric, two, counts))
        for counts in _draws(len(one), resamples, seed)
    )
    # A system's side has all units of both systems, with count 1 for units that it was dealt.
    both = np.concatenate([one, two])
    dealt = differences(
        (_of_draw(metric, both, side), _of_draw(metric, both, 1 - side))
        for side in _deals(len(one), resamples, seed)
    )
    return {
        name: Difference(
            value_one[name],
            value_two[name],
            *_interval(drawn[name], level),
            _two_sided(drawn[name]),
            _as_great(dealt[name], value_two[name] - value_one[name]),
        )
        for name in names
    }


def check_bootstrap(level: float, resamples: int, seed: int = 0) -> None:
    """Raises ValueError for an invalid level, number of resamples or seed."""
    check_value("confidence", level, float, Range(above=0, below=1))
    check_value("resamples", resamples, int, Range(least=1, most=MOST_RESAMPLES))
    check_value("seed", seed, int, Range(least=0))


def _draws(units: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draws with replacement: how often each unit is drawn, int[units]."""
    random = np.random.default_rng([seed, 0])
    for _ in range(resamples):
        yield np.bincount(random.integers(units, size=units), minlength=units)


def _deals(units: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """int[2 * units]: a random one of each unit's two versions."""
    random = np.random.default_rng([seed, 1])
    for _ in range(resamples):
        heads = random.integers(2, size=units)
        yield np.concatenate([heads, 1 - heads])


def _of_draw(metric: Metric, units: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    try:
        return metric.of_units(units, counts)
    except ValueError:  # undefined for these units, such as targets without a phoneme
        return {}


def _values(rows: Iterable[dict[str, float]], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Each name's values, without missing values and nan."""
    listed = list(rows)
    columns = {name: np.array([row.get(name, math.nan) for row in listed]) for name in names}
    return {name: column[~np.isnan(column)] for name, column in columns.items()}


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _two_sided(differences: np.ndarray) -> float:
    if not len(differences):
        return math.nan
    fewer = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, float(2 * (fewer + 1) / (len(differences) + 1)))


def _as_great(differences: np.ndarray, observed: float) -> float:
    if not len(differences) or math.isnan(observed):
        return math.nan
    # Tolerance: sums in another order differ in their last bits.
    least = abs(observed) * (1 - 1e-9) - 1e-12
    return float(((np.abs(differences) >= least).sum() + 1) / (len(differences) + 1))
