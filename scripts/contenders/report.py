"""What a benchmark prints and writes: tables of medians and ratios, JSON, heat maps."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def rows(
    case: Mapping[str, Any], seconds: Mapping[str, Sequence[float]], ours: str
) -> list[dict[str, Any]]:
    """One row a contender: its median, and by how much `ours` is faster, of each round's ratio."""
    found = []
    for name, times in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(times, seconds[ours], strict=True)]
        found.append(
            {
                **case, "contender": name, "seconds": statistics.median(times),
                "ratio": statistics.median(ratios), "ratio_min": min(ratios),
                "ratio_max": max(ratios), "rounds": list(times),
            }
        )  # fmt: skip
    return found


def line(row: Mapping[str, Any], ours: str) -> str:
    """A row as text."""
    text = f"  {row['contender']:30} {row['seconds']:8.3f} s"
    if row["contender"] == ours:
        return text
    return (
        f"{text}   {ours} is {row['ratio']:.2f} x as fast "
        f"({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    )


def machine() -> dict[str, Any]:
    """The processor and its number of cores."""
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": name, "cores": os.cpu_count()}


def write(file: str | None, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes what is measured so far, if a file is given."""
    if file:
        text = json.dumps({**about, **machine(), "rows": list(rows)}, indent=2)
        Path(file).write_text(text + "\n", encoding="utf-8")


def case(row: Mapping[str, Any]) -> str:
    """A case's sizes as text: "2 x 1024 -> 64, 4 beams"."""
    text = f"{row['rows']} x {row['inputs']}"
    text += "".join(f" -> {row[name]}" for name in ("outputs", "targets") if name in row)
    text += f", {row['beams']} beams" if row.get("beams", 1) > 1 else ""
    return text + (f", dropout {row['dropout']}" if "dropout" in row else "")


def pairs(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Ours and the fastest peer, of every case and dtype that has one. Ours come first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((case(row), row["dtype"]), []).append(row)
    return [
        (ours, min(peers, key=lambda row: row["ratio"]))
        for ours, *peers in groups.values()
        if peers
    ]


def heat_map(rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """A picture of the ratio to the fastest peer: a panel for rows, beams and dtype."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import TwoSlopeNorm

    panels: dict[tuple, dict[tuple[int, int], float]] = {}
    for ours, peer in pairs(rows):
        key = (ours["dtype"], ours["rows"], ours.get("beams", 1))
        size = (ours["inputs"], ours.get("outputs", ours.get("targets", 0)))
        panels.setdefault(key, {})[size] = peer["ratio"]
    wide = min(4, len(panels))
    high = -(-len(panels) // wide)
    figure, axes = pyplot.subplots(
        high, wide, figsize=(1 + 3.2 * wide, 3.2 * high), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    norm = TwoSlopeNorm(1, 0.5, 2)
    for axis, ((dtype, count, beams), cells) in zip(axes.flat, panels.items(), strict=False):
        inputs, outputs = (sorted({size[i] for size in cells}) for i in (0, 1))
        grid = [[cells.get((i, o), float("nan")) for o in outputs] for i in inputs]
        image = axis.imshow(grid, cmap="RdBu", norm=norm, aspect="auto")
        for y, row in enumerate(grid):
            for x, value in enumerate(row):
                if value == value:
                    axis.text(x, y, f"{value:.2f}", ha="center", va="center")
        axis.set_xticks(range(len(outputs)), outputs)
        axis.set_yticks(range(len(inputs)), inputs)
        axis.set_xlabel("output tokens")
        axis.set_ylabel("input tokens")
        axis.set_title(
            f"{dtype}, {count} row{'s' * (count > 1)}" + (f", {beams} beams" if beams > 1 else "")
        )
    figure.colorbar(image, ax=axes, label="fastest peer's time / ours")
    figure.savefig(file, dpi=120)
