"""The newest token of every row, one step after the other in the same memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tbt_compile.runtime.bound_library import Tensor
from tbt_compile.runtime.tvm_runtime import shared_tensor
from tbt_compile.storage.aligned import aligned_empty


class NewestTokens:
    """Hands tokens to a step without a new tensor for each."""

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
