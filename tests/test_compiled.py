"""Compiled programs in a process: counted, and forgotten before they are too many."""

import jax
import numpy as np
import pytest

from t5jax import compiled
from t5jax.compiled import LOOK, ProgramCount, ProgramRoom, max_memory_maps, memory_maps

pytestmark = pytest.mark.skipif(max_memory_maps() is None, reason="no /proc")


def compile_programs(number):
    """Compiles so many programs anew."""
    for _ in range(number):
        jax.jit(lambda x: x + 1)(1.0)


def test_programs_are_counted_when_they_are_compiled():
    programs, square = ProgramCount(), jax.jit(lambda x: x * x)
    for _ in range(3):
        square(2.0)
    square(np.ones(2))
    assert programs.count == 2  # of a number, of an array


def test_few_memory_maps_forget_no_program():
    room, square = ProgramRoom(), jax.jit(lambda x: x * x)
    square(2.0)
    compile_programs(LOOK)
    room.make()
    assert square._cache_size() == 1


def test_programs_are_forgotten_where_half_of_the_memory_maps_are_taken(monkeypatch):
    # A number far below: threads of the process give maps back at any time.
    monkeypatch.setattr(compiled, "max_memory_maps", memory_maps)
    room, square = ProgramRoom(), jax.jit(lambda x: x * x)
    square(2.0)
    compile_programs(LOOK - 2)
    room.make()
    assert square._cache_size() == 1, "looked before LOOK programs"
    compile_programs(1)
    room.make()
    assert square._cache_size() == 0
    assert square(2.0) == 4
