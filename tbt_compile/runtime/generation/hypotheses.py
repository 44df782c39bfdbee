"""The open and the finished sequences of a beam search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbt_compile.runtime.generation.session import Scores, Tokens
from tbt_compile.runtime.generation.topk import Continuations

Mask = NDArray[np.bool_]
NEVER = np.float32(-1e9)
"""Score of what must not be chosen. Finite, as in transformers, so that sums and ratios stay defined."""


@dataclass
class Running:
    """The open beams, best first, of the inputs that are still being searched.

    Attributes:
        inputs: int64 [open inputs], places in the batch.
        ids: int64 [open inputs, beams, maximum length], padded.
        scores: float32 [open inputs, beams], sums of log-probabilities.
    """

    inputs: Tokens
    ids: Tokens
    scores: Scores

    @classmethod
    def start(cls, prompt: Tokens, beams: int, maximum: int, padding: int) -> Running:
        """Beams that all hold the prompt; all but the first are out of the race until they differ."""
        batch, length = prompt.shape
        ids = np.full((batch, beams, maximum), padding, np.int64)
        ids[:, :, :length] = prompt[:, None]
        scores = np.full((batch, beams), NEVER, np.float32)
        scores[:, 0] = 0
        return cls(np.arange(batch), ids, scores)

    def extended(self, which: Tokens, beams: Tokens, tokens: Tokens, length: int) -> Tokens:
        """Copies of `beams` [n, m] of the open inputs `which` [n], grown to `length` by `tokens` [n, m]."""
        ids = self.ids[which[:, None], beams]
        ids[:, :, length - 1] = tokens
        return ids

    def advance(self, best: Continuations, ended: Mask, length: int) -> Tokens:
        """Go on with the best continuations that did not end; returns the beams they continue, as scores."""
        scores = best.scores + np.where(ended, NEVER, np.float32(0))
        order = _descending(scores, self.scores.shape[1])
        origins = np.take_along_axis(best.beams, order, axis=1)
        tokens = np.take_along_axis(best.tokens, order, axis=1)
        self.ids = self.extended(np.arange(len(origins)), origins, tokens, length)
        self.scores = np.take_along_axis(scores, order, axis=1)
        return origins

    def keep(self, is_open: Mask) -> None:
        """Drop the inputs whose result is final."""
        self.inputs, self.ids, self.scores = self.inputs[is_open], self.ids[is_open], self.scores[is_open]


@dataclass
class Finished:
    """The best finished sequences of every input, best first.

    Attributes:
        ids: int64 [batch, beams, maximum length], padded; the prompt alone in slots that are not `done`.
        scores: float32 [batch, beams], with the length penalty.
        made: int64 [batch, beams], new tokens.
        done: bool [batch, beams].
        prompt_length: tokens of the prompt.
    """

    ids: Tokens
    scores: Scores
    made: Tokens
    done: Mask
    prompt_length: int

    @classmethod
    def start(cls, running: Running, prompt_length: int) -> Finished:
        """No finished sequence, in the shapes of `running` at its start."""
        shape = running.scores.shape
        none = np.zeros(shape, np.int64)
        return cls(running.ids.copy(), np.full(shape, NEVER), none, np.zeros(shape, bool), prompt_length)

    def update(
        self, running: Running, best: Continuations, ended: Mask, length: int, length_penalty: float
    ) -> None:
        """Take in the continuations that ended at `length`, if they are good enough.

        Those after the first `beams` are only there to go on with. Of equal scores a finished sequence comes
        before one that is not, and an earlier one before a later one.
        """
        beams = self.scores.shape[1]
        ends = ended[:, :beams]
        which = np.flatnonzero(ends.any(axis=1))
        if not which.size:
            return
        at, ends = running.inputs[which], ends[which]
        made = length - self.prompt_length
        penalty = np.float32(made**length_penalty)
        scores = best.scores[which, :beams] / penalty + np.where(ends, np.float32(0), NEVER)
        ids = running.extended(which, best.beams[which, :beams], best.tokens[which, :beams], length)
        not_done = np.concatenate([~self.done[at], ~ends], axis=1)
        order = np.lexsort((not_done, -np.concatenate([self.scores[at], scores], axis=1)), axis=1)[:, :beams]
        self.ids[at] = _merge(self.ids[at], ids, order)
        self.scores[at] = _merge(self.scores[at], scores, order)
        self.made[at] = _merge(self.made[at], np.full_like(order, made), order)
        self.done[at] = _merge(self.done[at], ends, order)

    def improvable(self, running: Running, penalty: float) -> Mask:
        """Per open input: could its best open beam, divided by `penalty`, still replace a finished one?"""
        done, scores = self.done[running.inputs], self.scores[running.inputs]
        worst = np.where(done, scores.min(axis=1, keepdims=True), NEVER)
        possible: Scores = running.scores[:, :1] / np.float32(penalty)
        return np.any(possible > worst, axis=1)

    def best(self, count: int) -> tuple[Tokens, Scores]:
        """The `count` best sequences per input, cut to the longest of them, and their scores; both flat."""
        longest = self.prompt_length + int(self.made[:, :count].max())
        return self.ids[:, :count, :longest].reshape(-1, longest), self.scores[:, :count].reshape(-1)


def _descending(scores: Scores, count: int) -> Tokens:
    """Per row, the indices of the `count` largest, largest first; of equal ones the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _merge(old: NDArray, new: NDArray, order: Tokens) -> NDArray:
    index = order.reshape(order.shape + (1,) * (old.ndim - 2))
    return np.take_along_axis(np.concatenate([old, new], axis=1), index, axis=1)
