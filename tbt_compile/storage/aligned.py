"""NumPy arrays with the alignment that TVM's kernels require."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes: kernels may use aligned loads of whole cache lines from the start of a tensor."""

Array = npt.NDArray[Any]


def aligned_empty(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Allocate an uninitialized array whose address is a multiple of `ALIGNMENT`, also if it is empty.

    >>> aligned_empty((3, 5), np.float32).ctypes.data % ALIGNMENT
    0
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    # Not a slice: NumPy places empty slices at the base of `memory`, which may be unaligned.
    return np.ndarray(tuple(shape), dtype, memory, offset=-memory.ctypes.data % ALIGNMENT)


def aligned_copy(array: Array) -> Array:
    """Copy an array to C order at an address that is a multiple of `ALIGNMENT`."""
    copied = aligned_empty(array.shape, array.dtype)
    copied[...] = array
    return copied
