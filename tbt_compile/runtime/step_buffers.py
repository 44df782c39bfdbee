"""What every step of a decoder reads and writes, in the same memory each time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tbt_compile.runtime.bound_library import Tensor, as_array
from tbt_compile.runtime.tvm_runtime import shared_tensor
from tbt_compile.storage.aligned import aligned_empty

Scores = npt.NDArray[np.float32]


class StepLogits:
    """Memory for logits of the last position.

    Args:
        first: those of the first step, float32 [rows, 1, V].

    Attributes:
        values: float32 [rows, V].
        tensor: the same memory as a step's output, [rows, 1, V].
    """

    def __init__(self, first: Tensor) -> None:
        self._make(as_array(first).shape)
        self.values[...] = as_array(first)[:, 0]

    def resize(self, rows: int) -> None:
        """Memory for so many rows; other logits than before are lost."""
        if rows != len(self.values):
            self._make((rows, 1, self.values.shape[1]))

    def _make(self, shape: tuple[int, ...]) -> None:
        memory = aligned_empty(shape, np.float32)
        self.values: Scores = memory[:, 0]
        self.tensor: Tensor = shared_tensor(memory)


class StepTokens:
    """Memory for the newest token of every row."""

    def __init__(self) -> None:
        self._make(1)

    def tensor(self, tokens: npt.NDArray[np.int64]) -> Tensor:
        """The tokens, int64 [rows], as a tensor [rows, 1] that is valid until the next call."""
        if len(tokens) != len(self._memory):
            self._make(len(tokens))
        self._memory[:, 0] = tokens
        return self._tensor

    def _make(self, rows: int) -> None:
        self._memory = aligned_empty((rows, 1), np.int64)
        self._tensor: Tensor = shared_tensor(self._memory)
