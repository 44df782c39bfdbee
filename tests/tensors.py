"""Tensors of every kind that a model may hold, and what it means that two are the same."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

TENSORS: dict[str, Array] = {
    "packed": np.array([[[-1, 2**62]], [[0, -(2**63)]]], np.int64),
    "bytes": np.arange(-127, 128, dtype=np.int8).reshape(5, 51),
    "scale": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
    "empty": np.empty((0, 7), np.float32),
    "no_bytes": np.empty((3, 0), np.int8),
    "scalar": np.array(0.1, np.float32),
    "count": np.array(7, np.int64),
    "flag": np.array(True),
    "half": np.array([[1.5, -2.25]], np.float16),
    "double": np.array([1 / 3]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(12, dtype=np.int64)[::3],
}


def same(left: Array, right: Array) -> bool:
    """Equal in dtype, shape and every bit."""
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
