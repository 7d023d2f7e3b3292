"""Times contenders in turns, A B A B …, so that drift of the machine's speed affects all alike."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def measure(
    contenders: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds per call in each round, by contender, after a warm-up call each.

    A contender's function must return only when its work is done. Several `calls` a turn reduce the
    effect of other contenders on the CPU's caches.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            began = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[name].append((time.perf_counter() - began) / calls)
    return seconds


def table(seconds: Mapping[str, list[float]], units: float, unit: str, against: str) -> list[dict]:
    """Prints and returns each contender's median time, and its ratio to `against` by round."""
    rows = []
    for name, times in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(times, seconds[against], strict=True)]
        rows.append(
            {
                "name": name,
                "seconds": statistics.median(times),
                f"{unit}_per_second": units / statistics.median(times),
                f"{against}_is_faster_by": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
        row = rows[-1]
        print(
            f"  {name:28} {row['seconds']:8.3f} s {row[f'{unit}_per_second']:9.1f} {unit}/s"
            f"   {against} is {row[f'{against}_is_faster_by']:.2f} x as fast"
            f" ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
            flush=True,
        )
    return rows


def write_json(file: str | None, results: object) -> None:
    """Writes results, if a file is given."""
    if file:
        Path(file).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
