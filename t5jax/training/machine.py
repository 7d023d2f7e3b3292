"""The run's machine: accelerators that JAX may not see, and glibc's memory settings."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# mallopt's parameters, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def accelerator() -> tuple[str, str] | None:
    """An accelerator that the system has, in words, and the extra of t5jax that supports it."""
    if Path("/proc/driver/nvidia").exists():
        return "is an NVIDIA GPU", "cuda"
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        return "may be a TPU", "tpu"
    return None


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, where JAX computes on the CPU.

    XLA allocates intermediate results at every step. glibc returns blocks of that size to the
    system, whose pages are then zeroed and mapped again: a fifth of the quickstart's step. Call it
    before JAX starts its threads. It does nothing with an accelerator or another C library.
    """
    if sys.platform != "linux" or accelerator() is not None:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ARENA_MAX, 1)  # only the main arena can grow that large
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)  # never
