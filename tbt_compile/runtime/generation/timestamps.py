"""Whisper's rule of timestamps: they come in pairs, never go back, and win by their sum of probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tbt_compile.runtime.generation.session import Scores, Tokens


@dataclass(frozen=True)
class Timestamps:
    """As transformers' `WhisperTimeStampLogitsProcessor`; a `Rule`.

    Attributes:
        first: the token of 0.00 seconds; all tokens from it on are timestamps.
        end: the end token; tokens below it are text.
        begin: length of the prompt.
        most_at_start: the largest timestamp that an output may start with, or None.
    """

    first: int
    end: int
    begin: int
    most_at_start: int | None

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        scores[:, self.first - 1] = -np.inf  # the token that asks for no timestamps
        for row, sequence in enumerate(ids[:, self.begin :].tolist()):
            self._keep_order(sequence, scores[row])
        if ids.shape[1] == self.begin:
            scores[:, : self.first] = -np.inf
            if self.most_at_start is not None:
                scores[:, self.first + self.most_at_start + 1 :] = -np.inf
        wins = _log_sum(scores[:, self.first :]) > scores[:, : self.first].max(axis=1)
        scores[wins, : self.first] = -np.inf

    def _keep_order(self, sequence: list[int], scores: Scores) -> None:
        """Ban text after the first timestamp of a pair, timestamps after the second, and earlier ones."""
        is_last = bool(sequence) and sequence[-1] >= self.first
        is_before_last = len(sequence) < 2 or sequence[-2] >= self.first
        if is_last and is_before_last:
            scores[self.first :] = -np.inf
        elif is_last:
            scores[: self.end] = -np.inf
        times = [token for token in sequence if token >= self.first]
        if times:
            least = times[-1] if is_last and not is_before_last else times[-1] + 1
            scores[self.first : least] = -np.inf


def _log_sum(scores: Scores) -> Scores:
    """log sum exp of each row; -inf where all are."""
    largest = scores.max(axis=1)
    shift = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        total: Scores = np.log(np.exp(scores - shift[:, None]).sum(axis=1)) + shift
    return total
