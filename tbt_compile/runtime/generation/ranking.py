"""What a beam search does with the scores of a whole vocabulary: log-softmax, and the best of them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tbt_compile.runtime.generation.session import Scores
from tbt_compile.runtime.generation.topk import Continuations, best_continuations


def log_softmax(scores: Scores) -> None:
    """Replace every row of `scores`, float32 [rows, vocabulary], by its log-softmax.

    The order of the operations, (x - max) - log(sum(exp(x - max))), is that of torch. A row with NaN or plus
    infinity, or with nothing but minus infinity, becomes NaN.

    >>> x = np.zeros((1, 4), np.float32)
    >>> log_softmax(x)
    >>> bool(np.allclose(x, np.log(0.25)))
    True
    """
    exponentials = np.empty(scores.shape[1], np.float32)
    with np.errstate(invalid="ignore"):
        # One row at a time, so that a row and its exponentials stay in the cache.
        for row in scores:
            row -= row.max()
            np.exp(row, out=exponentials)
            row -= np.log(exponentials.sum())


class TokenRanking(Protocol):
    """Ranks tokens; `NumPyRanking` says exactly how, others may differ in the last bit of a logarithm."""

    def log_softmax(self, scores: Scores) -> None:
        """Replace every row of `scores`, float32 [rows, V], by its log-softmax."""
        ...

    def best(self, log_probs: Scores, beam_scores: Scores, k: int) -> Continuations:
        """The k best continuations per input, see `best_continuations`."""
        ...


class NumPyRanking:
    """For any session, in NumPy."""

    def log_softmax(self, scores: Scores) -> None:
        log_softmax(scores)

    def best(self, log_probs: Scores, beam_scores: Scores, k: int) -> Continuations:
        return best_continuations(log_probs, beam_scores, k)


NUMPY = NumPyRanking()
