"""Ranking of a whole vocabulary in beam search: log-softmax and top-k."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tbt_compile.runtime.generation.session import Scores
from tbt_compile.runtime.generation.topk import Continuations, best_continuations


def log_softmax(scores: Scores) -> None:
    """Replace every row of `scores`, float32 [rows, vocabulary], by its log-softmax, in place.

    The order of operations, (x - max) - log(sum(exp(x - max))), is torch's. Rows with a NaN or +inf, and
    rows of only -inf, become NaN.

    >>> x = np.zeros((1, 4), np.float32)
    >>> log_softmax(x)
    >>> bool(np.allclose(x, np.log(0.25)))
    True
    """
    exponentials = np.empty(scores.shape[1], np.float32)
    with np.errstate(invalid="ignore"):
        # Row by row: a row and its exponentials stay in the CPU cache.
        for row in scores:
            row -= row.max()
            np.exp(row, out=exponentials)
            row -= np.log(exponentials.sum())


class TokenRanking(Protocol):
    """Ranks tokens like `NumPyRanking`, up to the last bit of a logarithm."""

    def log_softmax(self, scores: Scores) -> None:
        """Replace every row of `scores`, float32 [rows, V], by its log-softmax, in place."""
        ...

    def best(self, log_probs: Scores, beam_scores: Scores, k: int) -> Continuations:
        """Return the k best continuations per input; see `best_continuations`.

        Args:
            log_probs: float32 [inputs, beams, V], contiguous.
            beam_scores: float32 [inputs, beams], sums of log-probabilities.
            k: at most beams * V.

        Returns:
            Scores, beams and tokens, [inputs, k] each, best first.
        """
        ...


class NumPyRanking:
    """The reference implementation of `TokenRanking`, in NumPy."""

    def log_softmax(self, scores: Scores) -> None:
        log_softmax(scores)

    def best(self, log_probs: Scores, beam_scores: Scores, k: int) -> Continuations:
        """Return the k best continuations per input.

        Args:
            log_probs: as for `TokenRanking.best`.
            beam_scores: as for `TokenRanking.best`.
            k: as for `TokenRanking.best`.

        Returns:
            As for `TokenRanking.best`.
        """
        return best_continuations(log_probs, beam_scores, k)


NUMPY = NumPyRanking()
