"""Decoder session of a compiled encoder-decoder model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tbt_compile.runtime.bound_library import BoundLibrary, Tensor, tensor
from tbt_compile.runtime.caches import FloatCache, GrowingCache, caches_of, take_rows
from tbt_compile.runtime.input_checks import Limits
from tbt_compile.runtime.step_buffers import StepLogits, StepTokens

Tokens = npt.NDArray[np.int64]


class Seq2SeqSession:
    """Decodes one batch (see `DecoderSession`).

    Args:
        library: has the functions `first_step` and `step`.
        limits: of the model.
        hidden: the encoder's output, float32 [B, S, D].
        attention_mask: int64 [B, S] of the source, already checked.
    """

    def __init__(self, library: BoundLibrary, limits: Limits, hidden: Tensor, attention_mask: Tokens) -> None:
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
        """Append tokens, int64 [rows, q]; returns the logits of the last position, float32 [rows, V].

        Raises:
            GenerationError: a sequence would exceed the model's position embeddings, or a token is outside
                the vocabulary.
        """
        before, self._length = self._length, self._length + tokens.shape[1]
        self._limits.check_decoder(tokens, self._length, self._length)
        sizes = {"rows": len(tokens), "source": self._mask.shape[1]}
        if self._logits is None:
            self._limits.check_sizes("first_step", **sizes, tokens=self._length)
            self._logits = self._first_step(tokens)
            return self._logits.values
        self._limits.check_steps(before, self._length, **sizes)
        self._logits.resize(len(tokens))
        for column in range(tokens.shape[1]):
            past = [cache.tensor() for cache in self._self_caches]
            inputs = [self._newest.tensor(tokens[:, column]), self._mask_tensor, *past, *self._cross_caches]
            grown = [cache.grow() for cache in self._self_caches]
            self._library.call_into("step", inputs, [self._logits.tensor, *grown])
        return self._logits.values

    def _first_step(self, tokens: Tokens) -> StepLogits:
        outputs = self._library.call("first_step", tensor(tokens), self._hidden, self._mask_tensor)
        self._hidden = None  # later steps read the cross-attention cache instead
        cross = 1 + 2 * self._limits.layers
        self._self_caches = caches_of(outputs[:cross], self._library.stacks["step"], tokens.shape[1])
        self._cross_caches = outputs[cross:]
        return StepLogits(outputs[0])

    def reorder(self, rows: Tokens) -> None:
        """Replace the rows by the current ones at the indices `rows`, int64 [new rows].

        Mask and cross-attention cache are copied only if a row changes its source.
        """
        for cache in self._self_caches:
            cache.reorder(rows)
        items = self._items[rows]
        if not np.array_equal(items, self._items):
            self._items = items
            self._mask = self._mask[rows]
            self._mask_tensor = tensor(self._mask)
            self._cross_caches = take_rows(self._cross_caches, rows)
