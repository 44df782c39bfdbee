"""Rules that change the scores of single tokens.

A rule is called with the tokens so far, int64 [rows, length], the scores of the next token, float32
[rows, vocabulary], which it changes in place, and the input that each row belongs to, int64 [rows].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tbt_compile.runtime.generation.ranking import log_softmax
from tbt_compile.runtime.generation.session import Scores, Tokens

Rule = Callable[[Tokens, Scores, Tokens], None]


@dataclass(frozen=True)
class Ban:
    """Tokens that cannot come next while the length is in `lengths`."""

    tokens: Tokens
    lengths: range

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        if ids.shape[1] in self.lengths:
            scores[:, self.tokens] = -np.inf


@dataclass(frozen=True)
class Force:
    """The only tokens that can come next at one length."""

    tokens: Tokens
    at_length: int

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        if ids.shape[1] == self.at_length:
            scores.fill(-np.inf)
            scores[:, self.tokens] = 0


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides the positive and multiplies the negative scores of the tokens so far by `penalty`.

    The first `padding` tokens of a row do not count, int64 [inputs].
    """

    penalty: float
    padding: Tokens | None = None

    def __call__(self, ids: Tokens, scores: Scores, inputs: Tokens) -> None:
        if self.padding is not None:
            beyond = scores.shape[1]  # no token
            ids = np.where(np.arange(ids.shape[1]) < self.padding[inputs][:, None], beyond, ids)
        _penalize(scores, ids, self.penalty)


@dataclass(frozen=True)
class EncoderRepetitionPenalty:
    """The same for the tokens of the row's input, int64 [inputs, length], padding included."""

    penalty: float
    encoder_input_ids: Tokens

    def __call__(self, _ids: Tokens, scores: Scores, inputs: Tokens) -> None:
        _penalize(scores, self.encoder_input_ids[inputs], self.penalty)


@dataclass(frozen=True)
class EndBoost:
    """Raises the end tokens' scores by a factor that grows with every token beyond the length `start`."""

    ends: Tokens
    start: int
    factor: float

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        beyond = ids.shape[1] - self.start
        if beyond > 0:
            present = scores[:, self.ends]
            boost = np.abs(present) * np.float32(self.factor**beyond - 1)
            scores[:, self.ends] = present + np.where(np.isfinite(present), boost, np.float32(0))


def remove_invalid_values(_ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
    """NaN becomes 0, and the infinities the largest and smallest finite numbers."""
    limits = np.finfo(np.float32)
    np.nan_to_num(scores, copy=False, nan=0.0, posinf=float(limits.max), neginf=float(limits.min))


def renormalize(_ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
    """Log-softmax of the scores that the other rules left."""
    log_softmax(scores)


def _penalize(scores: Scores, tokens: Tokens, penalty: float) -> None:
    rows, columns = np.nonzero(tokens < scores.shape[1])
    chosen = tokens[rows, columns]
    present = scores[rows, chosen]
    # A token that occurs twice is penalised once: every occurrence writes the same value.
    scores[rows, chosen] = np.where(present < 0, present * np.float32(penalty), present / np.float32(penalty))
