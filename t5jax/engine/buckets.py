"""Shapes that programs are compiled for: rows, lengths and KV-cache sizes are rounded up to few."""

from __future__ import annotations

from collections.abc import Sequence

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LENGTH_BUCKETS = (32, 64, 128, 256, 384, 512, 768, 1024)

# KV-cache sizes, tried in turn. A short cache makes each step cheaper; each size is one more
# compile.
ROOMS = tuple(128 * 2**i for i in range(16))


def bucket(size: int, buckets: Sequence[int] = LENGTH_BUCKETS, longest: int | None = None) -> int:
    """The smallest of `buckets` that `size` fits in; beyond them, multiples of the last.

    At most `longest`, the positions that a model has, where it has a limit.
    """
    found = next((n for n in buckets if size <= n), -(-size // buckets[-1]) * buckets[-1])
    return found if longest is None else min(found, longest)


def rooms(length: int) -> tuple[int, ...]:
    """The KV-cache sizes of a decoding, until there is room for `length` ids."""
    return (*(n for n in ROOMS if n < length), length)
