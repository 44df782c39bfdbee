"""The state of a beam search: open beams and finished sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbt_compile.runtime.generation.session import Scores, Tokens
from tbt_compile.runtime.generation.topk import Continuations

Mask = NDArray[np.bool_]
NEVER = np.float32(-1e9)
"""Score of candidates that must not win. Finite, as in transformers: sums and ratios stay defined."""


@dataclass
class Running:
    """The open beams, best first, of the inputs whose result is not final.

    Attributes:
        inputs: int64 [open inputs], indices into the batch.
        ids: int64 [open inputs, beams, capacity], padded.
        scores: float32 [open inputs, beams], sums of log-probabilities.
    """

    inputs: Tokens
    ids: Tokens
    scores: Scores

    @classmethod
    def start(cls, prompt: Tokens, beams: int) -> Running:
        """Start all beams from the prompt, int64 [batch, q].

        All but the first score `NEVER`, or they would stay equal.
        """
        batch = len(prompt)
        scores = np.full((batch, beams), NEVER, np.float32)
        scores[:, 0] = 0
        return cls(np.arange(batch), prompt[:, None].repeat(beams, axis=1), scores)

    def extended(self, which: Tokens, beams: Tokens, tokens: Tokens, length: int) -> Tokens:
        """Copy beams and append one token to each copy.

        Args:
            which: int64 [n], indices into the open inputs.
            beams: int64 [n, m], beams of these inputs.
            tokens: int64 [n, m], the tokens to append.
            length: length with the new token.

        Returns:
            int64 [n, m, capacity].
        """
        ids = self.ids[which[:, None], beams]
        ids[:, :, length - 1] = tokens
        return ids

    def advance(self, best: Continuations, ended: Mask, length: int) -> Tokens:
        """Replace the beams by the best continuations that did not end.

        Args:
            best: candidates for every open input.
            ended: bool [open inputs, k], which candidates end a sequence.
            length: length with the new token.

        Returns:
            The beam that each new beam continues, int64 [open inputs, beams].
        """
        scores = best.scores + np.where(ended, NEVER, np.float32(0))
        order = _descending(scores, self.scores.shape[1])
        origins = np.take_along_axis(best.beams, order, axis=1)
        tokens = np.take_along_axis(best.tokens, order, axis=1)
        self.ids = self.extended(np.arange(len(origins)), origins, tokens, length)
        self.scores = np.take_along_axis(scores, order, axis=1)
        return origins

    def keep(self, is_open: Mask) -> None:
        """Keep the inputs where `is_open`, bool [open inputs], and drop the others: their result is final."""
        self.inputs, self.ids, self.scores = self.inputs[is_open], self.ids[is_open], self.scores[is_open]


@dataclass
class Finished:
    """The best finished sequences of every input, best first.

    Attributes:
        ids: int64 [batch, beams, capacity], padded; only the prompt in slots that are not `done`.
        scores: float32 [batch, beams], with the length penalty.
        new_tokens: int64 [batch, beams], number of new tokens.
        done: bool [batch, beams], which slots hold a finished sequence.
        prompt_length: number of tokens in the prompt.
    """

    ids: Tokens
    scores: Scores
    new_tokens: Tokens
    done: Mask
    prompt_length: int

    @classmethod
    def start(cls, running: Running, prompt_length: int) -> Finished:
        """Start with no finished sequences, in the shapes of `running` before the first step."""
        shape = running.scores.shape
        none = np.zeros(shape, np.int64)
        return cls(running.ids.copy(), np.full(shape, NEVER), none, np.zeros(shape, bool), prompt_length)

    def update(
        self, running: Running, best: Continuations, ended: Mask, length: int, length_penalty: float
    ) -> None:
        """Insert the continuations that ended if they are among the best finished sequences.

        Only the first `beams` candidates count; the rest exist to continue open beams. Ties go to finished
        sequences before empty slots, then to earlier ones.

        Args:
            running: the beams that `best` continues.
            best: candidates for every open input.
            ended: bool [open inputs, k], which candidates end a sequence.
            length: length with the new token.
            length_penalty: exponent of the number of new tokens, by which scores are divided.
        """
        beams = self.scores.shape[1]
        ends = ended[:, :beams]
        which = np.flatnonzero(ends.any(axis=1))
        if not which.size:
            return
        at, ends = running.inputs[which], ends[which]
        new_tokens = length - self.prompt_length
        penalty = np.float32(new_tokens**length_penalty)
        scores = best.scores[which, :beams] / penalty + np.where(ends, np.float32(0), NEVER)
        ids = running.extended(which, best.beams[which, :beams], best.tokens[which, :beams], length)
        not_done = np.concatenate([~self.done[at], ~ends], axis=1)
        order = np.lexsort((not_done, -np.concatenate([self.scores[at], scores], axis=1)), axis=1)[:, :beams]
        self.ids[at] = _merge(self.ids[at], ids, order)
        self.scores[at] = _merge(self.scores[at], scores, order)
        self.new_tokens[at] = _merge(self.new_tokens[at], np.full_like(order, new_tokens), order)
        self.done[at] = _merge(self.done[at], ends, order)

    def improvable(self, running: Running, penalty: float) -> Mask:
        """Return, per open input, whether its best beam's score over `penalty` beats a finished sequence."""
        done, scores = self.done[running.inputs], self.scores[running.inputs]
        worst = np.where(done, scores.min(axis=1, keepdims=True), NEVER)
        possible: Scores = running.scores[:, :1] / np.float32(penalty)
        return np.any(possible > worst, axis=1)

    def best(self, count: int) -> tuple[Tokens, Scores]:
        """Return the `count` best sequences per input, [batch * count, longest], and their scores."""
        longest = self.prompt_length + int(self.new_tokens[:, :count].max())
        return self.ids[:, :count, :longest].reshape(-1, longest), self.scores[:, :count].reshape(-1)


def _descending(scores: Scores, count: int) -> Tokens:
    """Return the indices of the `count` largest scores per row, in descending order; ties keep order."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _merge(old: NDArray, new: NDArray, order: Tokens) -> NDArray:
    index = order.reshape(order.shape + (1,) * (old.ndim - 2))
    return np.take_along_axis(np.concatenate([old, new], axis=1), index, axis=1)
