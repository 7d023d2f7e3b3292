"""Tensors of checkpoint files, and the rows of a family's tensor tables.

A family has one table a file format (`Family.formats`). It says where each tensor of a file lies in
the parameters; reading and writing both follow it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# Entries that are compared at a time.
_PIECE = 2**22


class Tensor(NamedTuple):
    """One array of a file, not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


Tensors = Mapping[str, Tensor]


class Transform(NamedTuple):
    """One tensor's way from a file's layout to ours, and back. Views, where NumPy can.

    Attributes:
      read: their array, our shape -> ours.
      write: our array -> theirs.
    """

    read: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]

    def written_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Their shape of an array whose shape is `shape` here."""
        # An array that takes no memory: every entry is the same one.
        return self.write(np.broadcast_to(np.float32(0), shape)).shape


SAME = Transform(lambda x, shape: x.reshape(shape), lambda x: x)
# torch's linear layers are [out, in]; ours [in, out], with heads and head_dim apart.
TRANSPOSED = Transform(lambda x, shape: x.T.reshape(shape), lambda x: x.T)
INTO_HEADS = Transform(TRANSPOSED.read, lambda x: x.reshape(x.shape[0], -1).T)
OUT_OF_HEADS = Transform(TRANSPOSED.read, lambda x: x.reshape(-1, x.shape[-1]).T)


class Row(NamedTuple):
    """One parameter's place in a file.

    Attributes:
      names: of its tensor in the file. The first is written. Those beside it in a file that is
        read must be copies of it.
      path: of the parameter, with layers apart.
      transform: between their array and ours.
      layer: the parameter's index on the second axis, where one array has all layers.
    """

    names: tuple[str, ...]
    path: str
    transform: Transform = SAME
    layer: int | None = None


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, read piece by piece."""
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
