"""One batch being decoded by the compiled functions of an encoder-decoder model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.runtime.limits import DecoderLimits
from tbt_compile.runtime.machine import Machine, Tensor, as_array, take_rows, tensor

Tokens = npt.NDArray[np.int64]


class Seq2SeqSession:
    """Serves the decoder step by step (see `DecoderSession`).

    Args:
        machine: with the functions `first_step` and `step`.
        limits: of the decoder.
        hidden: the encoder's output, float32 [B, S, D].
        attention_mask: int64 [B, S], checked.
    """

    def __init__(
        self, machine: Machine, limits: DecoderLimits, hidden: Tensor, attention_mask: Tokens
    ) -> None:
        self._machine = machine
        self._limits = limits
        self._mask = tensor(attention_mask)
        self._hidden = hidden
        self._items = np.arange(len(attention_mask))
        self._length = 0
        self._self_caches: list[Any] = []
        self._cross_caches: list[Any] = []

    def step(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Append tokens [rows, q] to every row; logits [rows, V] of the last position.

        Raises:
            GenerationError: the sequences would be longer than the model's position embeddings, or a token
                is outside the vocabulary.
        """
        self._length += tokens.shape[1]
        self._limits.check(tokens, self._length)
        if not self._self_caches:
            logits, *caches = self._machine.call("first_step", tensor(tokens), self._hidden, self._mask)
            self._self_caches = caches[: 2 * self._limits.layers]
            self._cross_caches = caches[2 * self._limits.layers :]
        else:
            for column in range(tokens.shape[1]):
                logits, *self._self_caches = self._machine.call(
                    "step",
                    tensor(tokens[:, column : column + 1]),
                    self._mask,
                    *self._self_caches,
                    *self._cross_caches,
                )
        return as_array(logits)[:, 0].copy()

    def reorder(self, rows: Tokens) -> None:
        """Replace the rows; what belongs to the source is only copied when a row changes its source."""
        self._self_caches = take_rows(self._self_caches, rows)
        items = self._items[rows]
        if not np.array_equal(items, self._items):
            self._items = items
            self._mask, self._hidden, *self._cross_caches = take_rows(
                [self._mask, self._hidden, *self._cross_caches], rows
            )
