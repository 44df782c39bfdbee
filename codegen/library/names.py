"""What the functions of a compiled library are called, for those who make them and those who call them."""

from __future__ import annotations

MOST_DIMENSIONS = 8
"""Columns of the table of output shapes."""

LOG_SOFTMAX = "vocabulary_log_softmax"
BEST = "vocabulary_best"
"""What a search needs besides the units, see `codegen.kernels.float_ops.vocabulary`."""


def shapes_of(unit: str) -> str:
    """The function that tells the shapes of a unit's outputs."""
    return f"{unit}_shapes"
