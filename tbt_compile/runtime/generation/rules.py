"""Rules that change the scores of single tokens, like transformers' logits processors.

A rule takes the tokens so far, int64 [rows, length], the scores of the next token, float32
[rows, vocabulary], which it changes in place, and the index of each row's input, int64 [rows].
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
    """Bans tokens as the next token while the length is in `lengths`."""

    tokens: Tokens
    lengths: range

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        if ids.shape[1] in self.lengths:
            scores[:, self.tokens] = -np.inf


@dataclass(frozen=True)
class Force:
    """Bans all other tokens as the next token at one length."""

    tokens: Tokens
    at_length: int

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        if ids.shape[1] == self.at_length:
            scores.fill(-np.inf)
            scores[:, self.tokens] = 0


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive scores of the tokens so far by `penalty` and multiplies negative ones by it.

    `padding`, int64 [inputs], is the number of tokens at the start of each row that do not count.
    """

    penalty: float
    padding: Tokens | None = None

    def __call__(self, ids: Tokens, scores: Scores, inputs: Tokens) -> None:
        if self.padding is not None:
            no_token = scores.shape[1]
            ids = np.where(np.arange(ids.shape[1]) < self.padding[inputs][:, None], no_token, ids)
        _penalize(scores, ids, self.penalty)


@dataclass(frozen=True)
class EncoderRepetitionPenalty:
    """Applies `penalty` like `RepetitionPenalty` to the tokens of the row's input, padding included.

    `encoder_input_ids` is int64 [inputs, length].
    """

    penalty: float
    encoder_input_ids: Tokens

    def __call__(self, _ids: Tokens, scores: Scores, inputs: Tokens) -> None:
        _penalize(scores, self.encoder_input_ids[inputs], self.penalty)


@dataclass(frozen=True)
class EndBoost:
    """Raises the scores of end tokens by a factor that grows exponentially beyond the length `start`."""

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
    """Replace NaN by 0 and infinities by the largest and smallest finite numbers; a `Rule`.

    Args:
        _ids: not used.
        scores: float32 [rows, vocabulary], changed in place.
        _inputs: not used.
    """
    limits = np.finfo(np.float32)
    np.nan_to_num(scores, copy=False, nan=0.0, posinf=float(limits.max), neginf=float(limits.min))


def renormalize(_ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
    """Replace the scores by their log-softmax; a `Rule`, the last one.

    Args:
        _ids: not used.
        scores: float32 [rows, vocabulary], changed in place.
        _inputs: not used.
    """
    log_softmax(scores)


def _penalize(scores: Scores, tokens: Tokens, penalty: float) -> None:
    rows, columns = np.nonzero(tokens < scores.shape[1])
    chosen = tokens[rows, columns]
    present = scores[rows, chosen]
    # A token that occurs twice is penalized once: all occurrences write the same value.
    scores[rows, chosen] = np.where(present < 0, present * np.float32(penalty), present / np.float32(penalty))
