"""Decoder session of a compiled decoder-only model."""

from __future__ import annotations

import numpy as np

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.bound_library import BoundLibrary, tensor
from tbt_compile.runtime.caches import BLOCK, Block, FloatCache, GrowingCache, caches_of, caches_of_blocks
from tbt_compile.runtime.generation import Scores, Tokens
from tbt_compile.runtime.input_checks import Limits
from tbt_compile.runtime.prompt_cache import PromptCache
from tbt_compile.runtime.step_buffers import StepLogits, StepTokens


class DecoderOnlySession:
    """Decodes one batch (see `DecoderSession`); the first step is the prefill of the prompts.

    Positions are those of transformers: most models count attended tokens, and left padding has no positions.
    The others count padding too, and their limits say so.

    Args:
        library: has the functions `first_step` and `step`, and `extend` to keep prompts.
        limits: of the model.
        attention_mask: int64 [B, T] of the prompts, already checked.
        prompts: where blocks of prompts are kept, or None.
    """

    def __init__(
        self,
        library: BoundLibrary,
        limits: Limits,
        attention_mask: Tokens,
        prompts: PromptCache | None = None,
    ) -> None:
        self._library = library
        self._limits = limits
        self._prompts = prompts
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
        self._limits.check_steps(before, before + new, rows=len(tokens))
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
        known = 0 if self._prompts is None else self._take_known(self._prompts, tokens)
        if known:
            logits = self._extend(tokens[:, known:], positions[:, known:])
        else:
            outputs = self._library.call("first_step", tensor(tokens), tensor(self._mask), tensor(positions))
            self._caches = caches_of(outputs, self._library.stacks["step"], tokens.shape[1])
            logits = StepLogits(outputs[0])
        if self._prompts is not None:
            self._keep(self._prompts, tokens)
        return logits

    def _take_known(self, prompts: PromptCache, tokens: Tokens) -> int:
        """Fill the caches with what is known of the prompts; returns the number of columns, maybe none.

        A column is known if it is padding, or known, in every row.
        """
        starts = self._mask.argmax(axis=1).tolist()
        rows = [(start, prompts.find(row[start:])) for start, row in zip(starts, tokens, strict=True)]
        known = min(start + BLOCK * len(blocks) for start, blocks in rows)
        sizes = {"rows": len(rows), "past": known, "new": tokens.shape[1] - known}
        found = all(blocks for _, blocks in rows) and self._unbroken.all()
        if not found or not self._limits.allows("extend", **sizes):
            known = 0
        for start in starts:
            prompts.count(tokens.shape[1] - start, max(0, known - start))
        if known:
            self._caches = caches_of_blocks(rows, known)
        return known

    @property
    def _unbroken(self) -> Tokens:
        """The prompts that are masked on the left alone, bool [rows]: of others not all tokens are read."""
        unbroken: Tokens = self._mask.argmax(axis=1) + self._lengths[:, 0] == self._mask.shape[1]
        return unbroken

    def _extend(self, tokens: Tokens, positions: Tokens) -> StepLogits:
        """Append several tokens, int64 [rows, q], whose mask is known."""
        past = [cache.tensor() for cache in self._caches]
        inputs = [tensor(tokens), tensor(self._mask), tensor(positions), *past]
        logits = StepLogits(self._library.outputs("extend", *inputs)[0])
        grown = [cache.grow(tokens.shape[1]) for cache in self._caches]
        self._library.call_into("extend", inputs, [logits.tensor, *grown])
        return logits

    def _keep(self, prompts: PromptCache, tokens: Tokens) -> None:
        starts = self._mask.argmax(axis=1)
        for number in np.flatnonzero(self._unbroken).tolist():

            def cut(first: int, number: int = number, start: int = starts[number]) -> Block:
                return [cache.block(number, start + first) for cache in self._caches]

            prompts.add(tokens[number, starts[number] :], cut)

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
            other: of the same model.
        """
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
