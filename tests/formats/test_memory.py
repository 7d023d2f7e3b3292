"""New memory for parameters that are read."""

import numpy as np
import pytest

from t5jax.formats.memory import HUGE_PAGE, empty, free_huge_pages


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 1 << 19), (HUGE_PAGE // 4,)])
def test_an_array_begins_where_jax_takes_it_over_and_holds_what_it_is_given(shape, huge):
    array = empty(shape, np.float32, huge=huge)
    assert array.shape == shape
    assert array.dtype == np.float32
    assert array.ctypes.data % 64 == 0
    array[...] = 7
    assert (array == 7).all()


def test_huge_pages_are_counted_in_whole_ones():
    assert free_huge_pages() % HUGE_PAGE == 0
