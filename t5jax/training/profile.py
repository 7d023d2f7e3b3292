"""Profiler traces for TensorBoard's profile plugin and XProf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Traces steps [first, last] into `folder`/plugins/profile; no step if `steps` is None."""

    def __init__(self, folder: Path, steps: tuple[int, ...] | None) -> None:
        self.folder = folder
        self.first, self.last = steps or (0, -1)
        self.running = False

    def before(self, step: int) -> None:
        """To be called before each step."""
        if not self.running and self.first <= step <= self.last:
            self.folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, result: Any) -> None:
        """To be called after each step's dispatch; waits for `result` at the last traced step."""
        if self.running and step >= self.last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes the trace, also of a run that ends before `last`."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
