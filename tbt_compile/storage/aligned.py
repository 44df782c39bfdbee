"""Arrays that begin where TVM's kernels expect tensors to begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes: compiled code may load whole cache lines and widest vectors from the start of a tensor."""

Array = npt.NDArray[Any]


def aligned_empty(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """An uninitialised array whose address is a multiple of `ALIGNMENT`.

    >>> aligned_empty((3, 5), np.float32).ctypes.data % ALIGNMENT
    0
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    # An offset holds for empty arrays too; NumPy lets an empty slice begin at the start of `memory`.
    return np.ndarray(tuple(shape), dtype, memory, offset=-memory.ctypes.data % ALIGNMENT)


def aligned_copy(array: Array) -> Array:
    """A copy in C order whose address is a multiple of `ALIGNMENT`."""
    copied = aligned_empty(array.shape, array.dtype)
    copied[...] = array
    return copied
