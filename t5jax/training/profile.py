"""A trace of some steps, for TensorBoard's profile plugin and XProf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Traces the steps `first` to `last` into `folder`/plugins/profile; None: traces nothing."""

    def __init__(self, folder: Path, steps: tuple[int, ...] | None) -> None:
        self.folder = folder
        self.first, self.last = steps or (0, -1)
        self.running = False

    def before(self, step: int) -> None:
        """Call it before a step; begins the trace at the first of the steps."""
        if not self.running and self.first <= step <= self.last:
            self.folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, result: Any) -> None:
        """Call it after a step was dispatched; writes the trace after the last of the steps."""
        if self.running and step >= self.last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes what was traced of a run that ends before `last`."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
