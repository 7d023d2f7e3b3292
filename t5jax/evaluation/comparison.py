"""Significance of the difference between two models' metrics on the same examples.

Metrics are computed from the per-example parts that `t5jax eval` stored
(`t5jax.tasks.metrics.examples`), and must agree with the metrics.json beside them. A built-in
metric never replaces a task's metric of the same name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic

from t5jax.knobs import short
from t5jax.run_folder import EVALUATIONS, PREDICTIONS, RESULTS
from t5jax.schema import Schema, check, parse_json, read_json
from t5jax.tasks import registry
from t5jax.tasks.measuring import telling
from t5jax.tasks.metrics.base import Grouped, Metric, Values, as_metric, find, name_of
from t5jax.tasks.metrics.examples import (
    SCORES,
    STATISTICS,
    of_scores,
    of_statistics,
    reproduces,
)
from t5jax.tasks.metrics.resampling import Difference, check_bootstrap, compare_units
from t5jax.text_files import read_lines

Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]
_ABSENT: Any = object()


class _Row(Schema):
    """One line of predictions.jsonl."""

    inputs: str
    targets: str
    prediction: str = _ABSENT
    ranked: str = _ABSENT
    expected: Any = _ABSENT
    answer: Any = _ABSENT
    ranked_answer: Any = _ABSENT
    statistics: dict[str, list[Any]] = pydantic.Field(default_factory=dict)
    scores: dict[str, dict[str, Finite]] = pydantic.Field(default_factory=dict)
    ranked_statistics: dict[str, list[Any]] = pydantic.Field(default_factory=dict)
    ranked_scores: dict[str, dict[str, Finite]] = pydantic.Field(default_factory=dict)


class _Metrics(Schema):
    """metrics.json; the values stand beside these fields."""

    model_config = pydantic.ConfigDict(extra="allow")

    task: str | None = None
    metrics: list[str] = pydantic.Field(default_factory=list)
    per_example: dict[str, str] = pydantic.Field(default_factory=dict)
    rank_per_example: dict[str, str] = pydantic.Field(default_factory=dict)
    examples: int | None = None

    def value(self, name: str, file: Path) -> float | None:
        """The finite number or null under `name`; ValueError otherwise."""
        values = self.model_extra or {}
        if name not in values:
            raise ValueError(f"{file} has no {name!r}; run `t5jax eval` again")
        return check(Finite | None, values[name], f"{file}: {name}")  # type: ignore


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The columns of a predictions.jsonl with N rows.

    Attributes:
      inputs, texts: N inputs and targets as text.
      targets, answers: N postprocessed targets and predictions, which metrics take.
      parts: by metric, its N stored parts.
      kinds: by metric, the kind of its parts, or why it has none.
      about: the metrics.json beside it, or None.
    """

    file: Path
    task: str
    ranked: bool
    inputs: list[str]
    texts: list[str]
    targets: list[Any]
    answers: list[Any]
    parts: dict[str, list[Any]]
    kinds: dict[str, str]
    about: _Metrics | None

    def check(self, name: str, values: Values) -> None:
        """Raises ValueError if a metric's values differ from those in metrics.json."""
        if self.about is None:
            return
        beside = self.file.parent / RESULTS
        for key, value in values.items():
            written = self.about.value(f"rank_{key}" if self.ranked else key, beside)
            if not reproduces(value, written):
                raise ValueError(
                    f"{self.file} gives {key}={value:.6g} (metric {name}), but {beside} says "
                    f"{written}; one of them was changed: run `t5jax eval` again"
                )


def find_predictions(path: str | Path) -> dict[str, Path]:
    """The predictions.jsonl of each task.

    Args:
      path: a run, a folder of evaluations, a task's folder in that, or the file.

    Raises:
      FileNotFoundError: there are none.
    """
    place = Path(path)
    if place.is_file():
        return {place.absolute().parent.name: place}
    for folder in (place, place / EVALUATIONS):
        if (folder / PREDICTIONS).is_file():
            return {folder.absolute().name: folder / PREDICTIONS}
        found = sorted(folder.glob(f"*/{PREDICTIONS}"))
        if found:
            return {file.parent.name: file for file in found}
    missing = f"holds no {PREDICTIONS}" if place.exists() else "is not there"
    raise FileNotFoundError(
        f"{place} {missing}; `t5jax eval` writes it: give a run, its eval folder, a task's folder "
        "in that, or the file"
    )


def _is_one(path: str | Path) -> bool:
    return Path(path).is_file() or (Path(path) / PREDICTIONS).is_file()


def pair_predictions(
    first: str | Path, second: str | Path, tasks: Sequence[str] = ()
) -> dict[str, tuple[Path, Path]]:
    """The two predictions.jsonl of each common task, or of `tasks`.

    Raises:
      FileNotFoundError: no common task, or a task of `tasks` is missing.
    """
    one, two = find_predictions(first), find_predictions(second)
    if not tasks and _is_one(first) and _is_one(second):  # whatever their folders are called
        ((name, file),) = one.items()
        return {name: (file, *two.values())}  # type: ignore
    for name in tasks:
        for path, found in ((first, one), (second, two)):
            if name not in found:
                raise FileNotFoundError(
                    f"{path} holds no evaluation of {name}, only of {', '.join(found)}"
                )
    common = [name for name in one if name in two and name in (tasks or one)]
    if not common:
        raise FileNotFoundError(
            f"no task is in both: {first} has {', '.join(one)}, {second} has {', '.join(two)}"
        )
    return {name: (one[name], two[name]) for name in common}


def read_predictions(file: str | Path, *, ranked: bool = False) -> Predictions:
    """Reads a predictions.jsonl; `ranked` takes the best ranked answers as predictions.

    Raises:
      FileNotFoundError: no such file. ValueError: an invalid line; the message has its number.
    """
    path = Path(file)
    text, seen, where = ("ranked", "ranked_answer", "ranked_") if ranked else (
        "prediction", "answer", ""
    )  # fmt: skip
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        source = f"{path}, line {number}"
        row = check(_Row, parse_json(line, source), source)
        if getattr(row, text) is _ABSENT:
            hint = "; `t5jax eval --rank` writes it" if ranked else ""
            raise ValueError(f"{source} has no {text!r}{hint}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty; run `t5jax eval` again")
    beside = path.parent / RESULTS
    about = read_json(beside, _Metrics) if beside.is_file() else None
    if about is not None and about.examples not in (None, len(rows)):
        raise ValueError(
            f"{path} has {len(rows)} lines, but {beside} says {about.examples} examples; one of "
            "them was cut: run `t5jax eval` again"
        )
    kinds: dict[str, str] = {}
    parts: dict[str, list[Any]] = {}
    for kind in (STATISTICS, SCORES):
        for name in getattr(rows[0], where + kind):
            kinds[name] = kind
            parts[name] = []
            for number, row in enumerate(rows, 1):
                if name not in getattr(row, where + kind):
                    raise ValueError(f"{path}, line {number} has no {kind} of metric {name}")
                parts[name].append(getattr(row, where + kind)[name])
    if about is not None:
        stored = about.rank_per_example if ranked else about.per_example
        kinds = {name: "none: an older t5jax wrote it" for name in about.metrics} | stored | kinds
    return Predictions(
        path,
        about.task if about is not None and about.task else path.absolute().parent.name,
        ranked,
        [row.inputs for row in rows],
        [row.targets for row in rows],
        [row.targets if row.expected is _ABSENT else row.expected for row in rows],
        [
            getattr(row, text) if getattr(row, seen) is _ABSENT else getattr(row, seen)
            for row in rows
        ],
        parts,
        kinds,
        about,
    )


def compare_predictions(
    first: Predictions,
    second: Predictions,
    metrics: Sequence[str] = (),
    *,
    own: bool = False,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """The difference second - first of each metric's values, by name.

    Args:
      first, second: predictions for the same examples.
      metrics: names of the task's metrics, or of built-in metrics, which are computed from texts.
        Empty: all metrics of the task.
      own: compute metrics without stored parts by the functions of the registered task.

    Raises:
      ValueError: different examples, a metric that does not fit or has no stored parts, or stored
        parts that disagree with metrics.json.
    """
    check_bootstrap(level, resamples, seed)
    _check_same_examples(first, second)
    differences: dict[str, Difference] = {}
    for name in metrics or _own_names(first, second, own):
        metric, one, two = _units(name, first, second, own)
        values = compare_units(metric, one, two, level=level, resamples=resamples, seed=seed)
        for key, value in values.items():
            # Two metrics may share a value's name: SQuAD and binary classes both have an f1.
            differences[f"{name}/{key}" if key in differences else key] = value
    return differences


def without_parts(first: Predictions, second: Predictions) -> dict[str, str]:
    """The task's metrics without stored parts in one of the files, and why."""
    return {
        name: one.kinds.get(name, f"none: {one.file} has no such metric").removeprefix("none: ")
        for one in (second, first)
        for name in {**first.kinds, **second.kinds}
        if name not in one.parts
    }


def _own_names(first: Predictions, second: Predictions, own: bool) -> list[str]:
    """The task's metrics that can be compared."""
    for one in (first, second):
        if not one.kinds:
            raise ValueError(
                f"{one.file} has no scores of its task's metrics; run `t5jax eval` again, or name "
                "built-in metrics: --metric exact_match"
            )
    lacking = {} if own else without_parts(first, second)
    names = [name for name in first.kinds if name not in lacking]
    return names or list(lacking)[:1]  # `_units` then says why it cannot be compared


def _units(
    name: str, first: Predictions, second: Predictions, own: bool
) -> tuple[Metric, np.ndarray, np.ndarray]:
    """The metric and both files' resampling units, from stored parts or from texts."""
    both = (first, second)
    if not any(name in one.kinds for one in both):
        metric = find(name)
        return metric, _from_texts(metric, first), _from_texts(metric, second)
    for one in both:
        if name not in one.kinds:
            raise ValueError(
                f"metric {name} is one of the task's in the other file, not {one.file}"
            )
    lacking = [one for one in both if name not in one.parts]
    if lacking and own:
        metric = as_metric(_of_task(first.task, name))
        units = _from_texts(metric, first), _from_texts(metric, second)
    elif lacking:
        why = lacking[0].kinds[name].removeprefix("none: ")
        again = "run `t5jax eval` again" if why.startswith("an older") else "it is a user's"
        raise ValueError(
            f"metric {name} of task {lacking[0].task} has no parts in {lacking[0].file} ({why}); "
            f"{again}, or name the module that has the task: --modules FILE.py"
        )
    else:
        if first.kinds[name] != second.kinds[name]:
            raise ValueError(
                f"metric {name} is another one in {second.file} than in {first.file} "
                f"({second.kinds[name]}, {first.kinds[name]}); run `t5jax eval` again"
            )
        metric, one_units = _from_parts(name, first)
        units = one_units, _from_parts(name, second)[1]
    for one, drawn in zip(both, units, strict=True):
        one.check(name, metric.of_units(drawn, np.ones(len(drawn), np.int64)))
    return metric, units[0], units[1]


def _from_texts(metric: Metric, predictions: Predictions) -> np.ndarray:
    with telling(f"metric {metric.name}", predictions.targets, predictions.answers):
        units = metric.units(metric.rows(predictions.targets, predictions.answers))
        metric.of_units(units, np.ones(len(units), np.int64))
        return units


def _from_parts(name: str, predictions: Predictions) -> tuple[Metric, np.ndarray]:
    parts = predictions.parts[name]
    try:
        if predictions.kinds[name] == SCORES:
            return of_scores(name, parts)
        metric = find(name)
        for number, part in enumerate(parts, 1):
            numbers = part[1:] if isinstance(metric, Grouped) else part
            check(list[Finite], numbers, f"line {number}")
            if len(part) != len(parts[0]):
                raise ValueError(
                    f"line {number}: {len(part)} numbers, the first has {len(parts[0])}"
                )
        units = of_statistics(metric, parts)
        metric.of_units(units, np.ones(len(units), np.int64))
        return metric, units
    except Exception as error:  # numbers that are none of this metric's
        raise ValueError(
            f"{predictions.file}: the {predictions.kinds[name]} of metric {name} are damaged: "
            f"{error}; run `t5jax eval` again"
        ) from error


def _of_task(task: str, name: str) -> Callable[..., Values]:
    """A registered task's metric function of targets and predictions."""
    provider = registry.get(task)
    functions = getattr(provider, "predict_metric_fns", ())
    for function in functions:
        if name_of(function) == name:
            return function
    raise ValueError(
        f"task {task} has no metric {name} of targets and predictions, only "
        f"{', '.join(map(name_of, functions)) or 'others'}; run `t5jax eval` again"
    )


def _check_same_examples(first: Predictions, second: Predictions) -> None:
    if len(first.inputs) != len(second.inputs):
        raise ValueError(
            f"{first.file} has {len(first.inputs)} predictions, {second.file} "
            f"{len(second.inputs)}; compare predictions for the same examples"
        )
    for name in ("inputs", "texts", "targets"):
        pairs = zip(getattr(first, name), getattr(second, name), strict=True)
        for i, (one, two) in enumerate(pairs, 1):
            if one != two:
                what = "inputs" if name == "inputs" else "targets"
                raise ValueError(
                    f"line {i} is about other {what}: {short(one)} in {first.file}, "
                    f"{short(two)} in {second.file}; compare predictions for the same examples"
                )
