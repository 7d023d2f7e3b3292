"""Compiled programs: kept on disk, counted, and forgotten before they are too many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

# Programs between two looks at the process's memory maps.
LOOK = 8


def keep_compiled_programs() -> None:
    """Keeps compiled programs on disk, unless the user has configured JAX's cache already."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "t5jax" / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class ProgramCount:
    """Counts the programs that JAX compiles, or reads from its cache on disk, from now on."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration_secs: float, **more: str | int) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


class ProgramRoom:
    """Room in this process for programs compiled from now on.

    Linux lets a process have so many memory maps, vm.max_map_count, by default 65,530. A CPU
    program of T5-small takes 250 to 800 of them. XLA does not look: where there are none left, the
    process dies of a segmentation fault while it compiles or reads a program.
    """

    def __init__(self) -> None:
        self._programs = ProgramCount()
        self._looked = 0

    def make(self) -> None:
        """Forgets all compiled programs where the process has half of its memory maps.

        What is called again is compiled again, or read from JAX's cache on disk. It looks once in
        `LOOK` programs; on accelerators, and where there is no /proc, nothing is forgotten.
        """
        if self._programs.count - self._looked < LOOK or jax.default_backend() != "cpu":
            return
        self._looked = self._programs.count
        limit = max_memory_maps()
        if limit is not None and memory_maps() > limit // 2:
            jax.clear_caches()


def max_memory_maps() -> int | None:
    """The memory maps that a process may have; None where the system does not tell."""
    file = Path("/proc/sys/vm/max_map_count")
    return int(file.read_text()) if file.exists() else None


def memory_maps() -> int:
    """The memory maps that this process has."""
    return Path("/proc/self/maps").read_bytes().count(b"\n")
