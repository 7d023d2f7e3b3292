"""The result of one task's evaluation, and its files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t5jax import host
from t5jax.run_folder import PREDICTIONS, RESULTS


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task's metrics, how they were computed, and one prediction per example.

    A prediction has `inputs`, `targets`, `prediction` and `target_score`, and `ranked`, the best of
    the task's answers, if they were ranked. `expected`, `answer` and `ranked_answer` are targets,
    prediction and ranked after the task's postprocessor, where it changed them. `statistics` and
    `scores` are metrics' per-example parts (`tasks.metrics.examples`); `ranked_statistics` and
    `ranked_scores` are those of `ranked`.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    about: dict[str, Any]


def plain(value: Any) -> Any:
    """A postprocessor's result as JSON values."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def write_results(
    folder: str | Path, results: Mapping[str, TaskResult], about: Mapping[str, Any] | None = None
) -> None:
    """Writes FOLDER/<task>/metrics.json, with `about` in it, and predictions.jsonl, atomically.

    Undefined (nan) and infinite metrics are written as null.
    """
    for name, result in results.items():
        place = Path(folder) / name
        metrics = {k: v if math.isfinite(v) else None for k, v in result.metrics.items()}
        content = {**(about or {}), **result.about, **metrics}
        host.replace(place / RESULTS, [json.dumps(content, indent=2)])
        lines = (json.dumps(row, ensure_ascii=False) for row in result.predictions)
        host.replace(place / PREDICTIONS, lines)
