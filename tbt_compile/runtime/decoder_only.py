"""Decoder session of a compiled decoder-only model."""

from __future__ import annotations

import numpy as np

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.bound_library import BoundLibrary, tensor
from tbt_compile.runtime.caches import BLOCK, FloatCache, GrowingCache, caches_of
from tbt_compile.runtime.generation import Scores, Tokens
from tbt_compile.runtime.input_checks import Limits
from tbt_compile.runtime.step_buffers import StepLogits, StepTokens


class DecoderOnlySession:
    """Decodes one batch (see `DecoderSession`); the first step is the prefill of the prompts.

    Positions are those of transformers: most models count attended tokens, and left padding has no positions.
    The others count padding too, and their limits say so.

    Args:
        library: has the functions `first_step` and `step`.
        limits: of the model.
        attention_mask: int64 [B, T] of the prompts, already checked.
    """

    def __init__(self, library: BoundLibrary, limits: Limits, attention_mask: Tokens) -> None:
        self._library = library
        self._limits = limits
        self._mask = attention_mask
        self._lengths = attention_mask.sum(axis=1, keepdims=True)
        self._newest = StepTokens()
        self._logits: StepLogits | None = None
        self._caches: list[GrowingCache | FloatCache] = []

    def step(self, tokens: Tokens) -> Scores:
        """Append tokens, int64 [rows, q]; returns the logits of the last position, float32 [rows, V].

        Raises:
            GenerationError: the first tokens do not have the shape of the prompts, a sequence would exceed
                the model's positions, or a token is outside the vocabulary.
        """
        if self._logits is None:
            self._logits = self._first_step(tokens)
            return self._logits.values
        before, new = self._mask.shape[1], tokens.shape[1]
        self._limits.check_decoder(tokens, before + new, int(self._lengths.max()) + new)
        for length in range(before + 1, before + new + 1):
            self._limits.check_sizes("step", rows=len(tokens), tokens=length)
        self._logits.resize(len(tokens))
        ones = np.ones((len(tokens), 1), np.int64)
        for column in range(new):
            self._mask = np.concatenate([self._mask, ones], axis=1)
            past = [cache.tensor() for cache in self._caches]
            inputs = [
                self._newest.tensor(tokens[:, column]),
                tensor(self._mask),
                tensor(self._lengths),
                *past,
            ]
            grown = [cache.grow() for cache in self._caches]
            self._library.call_into("step", inputs, [self._logits.tensor, *grown])
            self._lengths = self._lengths + 1
        return self._logits.values

    def _first_step(self, tokens: Tokens) -> StepLogits:
        if tokens.shape != self._mask.shape:
            raise GenerationError(
                f"the first step got tokens {list(tokens.shape)}: expected the prompts "
                f"{list(self._mask.shape)} that the session was opened with"
            )
        self._limits.check_decoder(tokens, tokens.shape[1], int(self._lengths.max()))
        self._limits.check_sizes("first_step", rows=len(tokens), tokens=tokens.shape[1])
        positions = np.maximum(self._mask.cumsum(axis=1) - 1, 0)
        positions *= self._mask
        outputs = self._library.call("first_step", tensor(tokens), tensor(self._mask), tensor(positions))
        self._caches = caches_of(outputs, self._library.stacks["step"], tokens.shape[1])
        return StepLogits(outputs[0])

    def reorder(self, rows: Tokens) -> None:
        """Replace the rows by the current ones at the indices `rows`, int64 [new rows]."""
        self._mask, self._lengths = self._mask[rows], self._lengths[rows]
        for cache in self._caches:
            cache.reorder(rows)

    @property
    def width(self) -> int:
        """The tokens of every row, padding included."""
        return self._mask.shape[1]

    def join(self, other: DecoderOnlySession) -> None:
        """Append the rows of another session; both have made their first step.

        Shorter rows are padded on the left, which changes no result of a model that counts attended tokens.

        Args:
            other: of the same model; its width differs by a multiple of `caches.BLOCK`.
        """
        if (self.width - other.width) % BLOCK:
            raise ValueError(
                f"sessions of {self.width} and {other.width} tokens: expected whole blocks between"
            )
        width = max(self.width, other.width)
        self._mask = np.concatenate([_padded(session._mask, width) for session in (self, other)])
        self._lengths = np.concatenate([self._lengths, other._lengths])
        for cache, more in zip(self._caches, other._caches, strict=True):
            cache.join(more)  # type: ignore[arg-type]

    def trim(self) -> None:
        """Drop whole blocks of padding that all rows begin with."""
        spare = int(self._mask.argmax(axis=1).min()) // BLOCK * BLOCK
        if spare:
            self._mask = self._mask[:, spare:]
            for cache in self._caches:
                cache.drop(spare)


def _padded(mask: Tokens, width: int) -> Tokens:
    return np.pad(mask, ((0, 0), (width - mask.shape[1], 0)))
