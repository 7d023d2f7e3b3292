"""Windows of keys hold every key that is seen, and are as narrow as they may be."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5jax.ops.key_windows import extents, in_windows, widths
from t5jax.ops.masks import SegmentMask

CHUNK, CHUNKS, KEYS = 4, 3, 11
ids = st.integers(0, 3)


@given(
    st.lists(ids, min_size=2 * CHUNK * CHUNKS, max_size=2 * CHUNK * CHUNKS),
    st.lists(ids, min_size=2 * KEYS, max_size=2 * KEYS),
    st.booleans(),
)
def test_extents_hold_every_key_that_is_seen(queries, keys, causal):
    queries = jnp.array(queries, jnp.int32).reshape(2, -1)
    keys = jnp.array(keys, jnp.int32).reshape(2, -1)
    first, end = extents(queries.reshape(2, CHUNKS, CHUNK), keys, causal)
    seen = np.asarray(SegmentMask(queries, keys, causal).dense())[:, 0]
    for chunk, mine in enumerate(np.split(seen, CHUNKS, axis=1)):
        at = np.flatnonzero(mine.any(axis=(0, 1)))
        assert all(first[chunk] <= at) and all(at < end[chunk])


def chosen(segments, chunk=8):
    """The width that a row of segments is computed with, and where its chunks' keys start."""
    row = jnp.asarray(segments, jnp.int32)[None]
    found = extents(row.reshape(1, -1, chunk), row, causal=False)
    width, starts = in_windows(
        lambda width, starts: (jnp.int32(width), starts), found, widths(row.shape[1], chunk)
    )
    return int(width), starts.tolist()


@pytest.mark.parametrize(
    ("sizes", "width", "starts"),
    [
        ([32], 32, [0, 0, 0, 0]),
        ([8, 8, 8, 8], 8, [0, 8, 16, 24]),
        ([12, 4, 16], 16, [0, 0, 16, 16]),
        ([4, 24, 4], 32, [0, 0, 0, 0]),
    ],
)
def test_a_packed_row_reads_the_fewest_keys_that_hold_its_segments(sizes, width, starts):
    assert chosen(np.repeat(np.arange(len(sizes)) + 1, sizes)) == (width, starts)


def test_a_short_row_reads_no_padding():
    assert chosen([1] * 8 + [0] * 24)[0] == 8


def test_widths_end_with_all_keys_and_hold_a_chunk():
    assert widths(1024, 128) == [256, 512, 1024]
    assert widths(300, 128) == [128, 150, 300]
    assert widths(100, 128) == [100]
