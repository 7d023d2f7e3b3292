"""Tensors of checkpoint files, and the rows of tensor tables.

A family has one table a checkpoint format (`Family.formats`). It maps a file's tensors to
parameters, for reading and writing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# Entries compared at a time.
_PIECE = 2**22


class Tensor(NamedTuple):
    """An array of a file, read on demand."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


Tensors = Mapping[str, Tensor]


class Transform(NamedTuple):
    """Conversion of a tensor between a file's layout and ours; views where NumPy allows.

    Attributes:
      read: (file's array, our shape) -> our array.
      write: our array -> file's array.
    """

    read: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]

    def written_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The file's shape of our array of `shape`."""
        # A broadcast scalar takes no memory.
        return self.write(np.broadcast_to(np.float32(0), shape)).shape


SAME = Transform(lambda x, shape: x.reshape(shape), lambda x: x)
# torch's linear layers are [out, in]; ours [in, out], with heads and head_dim as two axes.
TRANSPOSED = Transform(lambda x, shape: x.T.reshape(shape), lambda x: x.T)
INTO_HEADS = Transform(TRANSPOSED.read, lambda x: x.reshape(x.shape[0], -1).T)
OUT_OF_HEADS = Transform(TRANSPOSED.read, lambda x: x.reshape(-1, x.shape[-1]).T)


class TensorRow(NamedTuple):
    """One parameter's place in a file.

    Attributes:
      names: its tensor's names. The first is written. Further names in a file must be copies.
      path: the parameter's path with unstacked layers.
      transform: between the file's array and ours.
      layer: the parameter's index on the second axis, where one array holds all layers.
    """

    names: tuple[str, ...]
    path: str
    transform: Transform = SAME
    layer: int | None = None


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal; compared piece by piece to save memory."""
    if a.shape != b.shape:
        return False
    ours, theirs = a.read(), b.read()
    one_memory = ours.ctypes.data == theirs.ctypes.data and ours.strides == theirs.strides
    if one_memory and ours.dtype == theirs.dtype:
        return True
    rows = max(1, _PIECE // max(1, math.prod(a.shape[1:])))
    return all(
        np.array_equal(ours[i : i + rows], theirs[i : i + rows], equal_nan=True)
        for i in range(0, len(ours), rows)
    )
