"""The cache of compiled programs on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax


def keep_compiled_programs() -> None:
    """Keeps compiled programs on disk, unless the user has configured JAX's cache already."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "t5jax" / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
