"""Buffers that decode steps reuse: logits and newest tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tbt_compile.runtime.bound_library import Tensor, as_array
from tbt_compile.runtime.tvm_runtime import shared_tensor
from tbt_compile.storage.aligned import aligned_empty

Scores = npt.NDArray[np.float32]


class StepLogits:
    """Buffer for the logits of the last position.

    Args:
        first: logits of the first step, float32 [rows, 1, V].

    Attributes:
        values: float32 [rows, V].
        tensor: the same memory as the output of a step, [rows, 1, V].
    """

    def __init__(self, first: Tensor) -> None:
        self._make(as_array(first).shape)
        self.values[...] = as_array(first)[:, 0]

    def resize(self, rows: int) -> None:
        """Resize to a number of rows; the values are lost unless it stays the same."""
        if rows != len(self.values):
            self._make((rows, 1, self.values.shape[1]))

    def _make(self, shape: tuple[int, ...]) -> None:
        memory = aligned_empty(shape, np.float32)
        self.values: Scores = memory[:, 0]
        self.tensor: Tensor = shared_tensor(memory)


class StepTokens:
    """Buffer for the newest token of every row."""

    def __init__(self) -> None:
        self._make(1)

    def tensor(self, tokens: npt.NDArray[np.int64]) -> Tensor:
        """Copy tokens, int64 [rows], to a tensor [rows, 1] that is valid until the next call."""
        if len(tokens) != len(self._memory):
            self._make(len(tokens))
        self._memory[:, 0] = tokens
        return self._tensor

    def _make(self, rows: int) -> None:
        self._memory = aligned_empty((rows, 1), np.int64)
        self._tensor: Tensor = shared_tensor(self._memory)
