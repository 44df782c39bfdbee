"""What a beam search does with the scores of a whole vocabulary."""

from __future__ import annotations

from typing import Protocol

from tbt_compile.runtime.generation.log_softmax import log_softmax
from tbt_compile.runtime.generation.session import Scores
from tbt_compile.runtime.generation.topk import Continuations, best_continuations


class Vocabulary(Protocol):
    """Ranks tokens; `NumPyVocabulary` says exactly how, others may differ in the last bit of a logarithm."""

    def log_softmax(self, scores: Scores) -> None:
        """Replace every row of `scores`, float32 [rows, V], by its log-softmax."""
        ...

    def best(self, log_probs: Scores, beam_scores: Scores, k: int) -> Continuations:
        """The k best continuations per input, see `best_continuations`."""
        ...


class NumPyVocabulary:
    """For any session, in NumPy."""

    def log_softmax(self, scores: Scores) -> None:
        log_softmax(scores)

    def best(self, log_probs: Scores, beam_scores: Scores, k: int) -> Continuations:
        return best_continuations(log_probs, beam_scores, k)


NUMPY = NumPyVocabulary()
