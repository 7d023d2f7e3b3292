"""The processes of a run, and files that each appear whole: one process writes, all may gather."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils


def is_writer() -> bool:
    """Whether this process writes the files that all share: the first process does."""
    return jax.process_index() == 0


def gather(tree: Any) -> Any:
    """A tree of arrays as whole numpy arrays, the same in every process.

    Shards of a `jax.Array` are put together. NumPy arrays, of which each process has its own, are
    concatenated along axis 0 in the order of the processes.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def barrier(name: str) -> None:
    """Waits until all processes have reached the barrier `name`."""
    multihost_utils.sync_global_devices(name)


def replace(file: Path, content: bytes | Iterable[str]) -> None:
    """Replaces a file atomically; `content` is bytes, or lines without line ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    if isinstance(content, bytes):
        temporary.write_bytes(content)
    else:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in content)
    os.replace(temporary, file)
