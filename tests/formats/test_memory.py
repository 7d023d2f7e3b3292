"""New memory for parameters that are read."""

import mmap

import numpy as np
import pytest

from t5jax.formats import memory
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


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="needs Linux's huge pages")
@pytest.mark.parametrize(
    ("items", "huge", "pages", "advised"),
    [
        (HUGE_PAGE // 4 * 3, True, 3, 3),
        (HUGE_PAGE // 4 + 1, True, 2, 1),
        (5, True, 0, 0),
        (HUGE_PAGE // 4 * 3, False, 3, 0),
    ],
)
def test_whole_huge_pages_are_asked_for_where_they_are_wanted(
    items, huge, pages, advised, monkeypatch
):
    lengths, advice = [], []

    class Recorded(mmap.mmap):
        def __new__(cls, file, length, **options):
            lengths.append(length)
            return super().__new__(cls, file, length, **options)

        def madvise(self, option, start, length):
            advice.append((option, start, length))

    monkeypatch.setattr(memory.mmap, "mmap", Recorded)
    empty((items,), np.float32, huge=huge)
    assert lengths == [pages * HUGE_PAGE or 4 * items]
    assert advice == [(mmap.MADV_HUGEPAGE, 0, advised * HUGE_PAGE)] * bool(advised)


def test_free_memory_in_huge_pages_is_counted_by_the_systems_table(monkeypatch):
    # 1, 2, 4, … pages: pieces of the tenth column on are as large as a huge page.
    smallest = (HUGE_PAGE // mmap.PAGESIZE).bit_length() - 1
    rows = [[900] * smallest + [3, 1], [7] * smallest + [0, 2]]
    table = "".join(f"Node 0, zone   Normal {' '.join(f'{n:6}' for n in row)}\n" for row in rows)
    monkeypatch.setattr(memory.Path, "read_text", lambda path: table)
    assert free_huge_pages() == (3 + 2 * 1 + 2 * 2) * HUGE_PAGE


def test_a_system_without_the_table_has_no_huge_pages(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(memory.Path, "read_text", missing)
    assert free_huge_pages() == 0
