"""Times functions of one library in turns, A B A B …, in one process.

Drift of the machine's speed affects all alike. Libraries are compared by `contenders`, in processes
of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def measure(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds in each round, by name, after a warm-up call each.

    A function must return only when its work is done.
    """
    for run in functions.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, run in functions.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds
