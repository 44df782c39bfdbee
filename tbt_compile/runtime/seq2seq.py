"""One batch being decoded by the compiled functions of an encoder-decoder model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tbt_compile.runtime.bound_library import BoundLibrary, Tensor, tensor
from tbt_compile.runtime.caches import FloatCache, GrowingCache, caches_of, take_rows
from tbt_compile.runtime.input_checks import DecoderLimits
from tbt_compile.runtime.step_buffers import StepLogits, StepTokens

Tokens = npt.NDArray[np.int64]


class Seq2SeqSession:
    """Serves the decoder step by step (see `DecoderSession`).

    Args:
        library: with the functions `first_step` and `step`.
        limits: of the decoder.
        hidden: the encoder's output, float32 [B, S, D].
        attention_mask: int64 [B, S], checked.
    """

    def __init__(
        self, library: BoundLibrary, limits: DecoderLimits, hidden: Tensor, attention_mask: Tokens
    ) -> None:
        self._library = library
        self._limits = limits
        self._mask = attention_mask
        self._mask_tensor = tensor(attention_mask)
        self._hidden = hidden
        self._items = np.arange(len(attention_mask))
        self._length = 0
        self._newest = StepTokens()
        self._logits: StepLogits | None = None
        self._self_caches: list[GrowingCache | FloatCache] = []
        self._cross_caches: list[Tensor] = []

    def step(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Append tokens [rows, q] to every row; logits [rows, V] of the last position.

        Raises:
            GenerationError: the sequences would be longer than the model's position embeddings, or a token
                is outside the vocabulary.
        """
        self._length += tokens.shape[1]
        self._limits.check(tokens, self._length)
        if self._logits is None:
            self._logits = self._first_step(tokens)
            return self._logits.values
        self._logits.resize(len(tokens))
        for column in range(tokens.shape[1]):
            past = [cache.tensor() for cache in self._self_caches]
            inputs = [self._newest.tensor(tokens[:, column]), self._mask_tensor, *past, *self._cross_caches]
            grown = [cache.grow() for cache in self._self_caches]
            self._library.call_into("step", inputs, [self._logits.tensor, *grown])
        return self._logits.values

    def _first_step(self, tokens: Tokens) -> StepLogits:
        outputs = self._library.call("first_step", tensor(tokens), self._hidden, self._mask_tensor)
        self._hidden = None  # no other step reads it
        own = 1 + 2 * self._limits.layers
        self._self_caches = caches_of(outputs[:own], self._library.stacks["step"], tokens.shape[1])
        self._cross_caches = outputs[own:]
        return StepLogits(outputs[0])

    def reorder(self, rows: Tokens) -> None:
        """Replace the rows; what belongs to the source is only copied when a row changes its source."""
        for cache in self._self_caches:
            cache.reorder(rows)
        items = self._items[rows]
        if not np.array_equal(items, self._items):
            self._items = items
            self._mask = self._mask[rows]
            self._mask_tensor = tensor(self._mask)
            self._cross_caches = take_rows(self._cross_caches, rows)
