"""The kind of machine that a program is compiled for."""

from __future__ import annotations

import jax


def on_one_cpu() -> bool:
    """Whether this is computed on one CPU device, and not on a mesh of several."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() == "cpu" and (mesh.empty or mesh.size == 1)
