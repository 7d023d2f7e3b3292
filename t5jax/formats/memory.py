"""New memory of the host, for parameters that are read."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

# x86's and ARM's.
HUGE_PAGE = 1 << 21


def empty(shape: tuple[int, ...], dtype: Any, *, huge: bool = False) -> np.ndarray:
    """An uninitialized array that begins at a page.

    On a CPU, JAX uses memory that begins at a multiple of 64 bytes as it is, and copies any other.
    `huge` asks for huge pages. They halve the time of a copy where the system has free ones. On
    fragmented memory the kernel compacts first, which is several times slower than the copy.
    NumPy's own large arrays always ask for huge pages.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    private = {} if os.name == "nt" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    advised = huge and hasattr(mmap, "MADV_HUGEPAGE")
    whole = size // HUGE_PAGE * HUGE_PAGE if advised else 0
    # Linux begins a mapping at a huge page if its length is a multiple of one. The rest, less than
    # a huge page, stays in small pages.
    length = -(-size // HUGE_PAGE) * HUGE_PAGE if whole else max(1, size)
    memory = mmap.mmap(-1, length, **private)
    if whole:
        with contextlib.suppress(OSError):  # a kernel that was built without them
            memory.madvise(mmap.MADV_HUGEPAGE, 0, whole)
    return np.ndarray(shape, dtype, memory)


def free_huge_pages() -> int:
    """Bytes of free memory in pieces that are huge pages; 0 where the system does not tell."""
    try:
        zones = Path("/proc/buddyinfo").read_text().splitlines()
    except OSError:
        return 0
    # Node 0, zone NAME, and how many pieces there are of 1, 2, 4, … pages.
    orders = [map(int, zone.split()[4:]) for zone in zones]
    pieces = ((count, mmap.PAGESIZE << i) for zone in orders for i, count in enumerate(zone))
    return sum(count * size for count, size in pieces if size >= HUGE_PAGE)
