"""The machine that a run is on: accelerators that JAX may not see, and the C library's memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# mallopt's parameters, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def accelerator() -> tuple[str, str] | None:
    """What the system has beside its CPU, and the extra of t5jax that JAX uses it with."""
    if Path("/proc/driver/nvidia").exists():
        return "is an NVIDIA GPU", "cuda"
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        return "may be a TPU", "tpu"
    return None


def keep_freed_memory() -> None:
    """Makes the C library keep the memory that this process frees, where JAX computes on the CPU.

    XLA allocates a step's intermediate results anew at every step. glibc asks the system for
    blocks of that size and gives them back, so each of their pages is found, zeroed and mapped
    again: a fifth of the quickstart's step. To be called before JAX starts its threads; it does
    nothing where there is an accelerator, or another C library.
    """
    if sys.platform != "linux" or accelerator() is not None:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ARENA_MAX, 1)  # other arenas cannot grow to such sizes
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
