"""The kind of machine that a program is compiled for."""

from __future__ import annotations

import functools
from pathlib import Path

import jax

# What /proc/cpuinfo calls instructions that sum products of int8: x86's VNNI and AMX, Arm's.
INTEGER_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def on_one_cpu() -> bool:
    """Whether this is computed on one CPU device, and not on a mesh of several."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() == "cpu" and (mesh.empty or mesh.size == 1)


@functools.cache
def multiplies_integers() -> bool:
    """Whether this CPU has instructions for products of int8, or does not tell what it has."""
    file = Path("/proc/cpuinfo")
    words = set(file.read_text().split()) if file.exists() else set()
    told = not words.isdisjoint({"flags", "Features"})
    return not told or not words.isdisjoint(INTEGER_PRODUCTS)
