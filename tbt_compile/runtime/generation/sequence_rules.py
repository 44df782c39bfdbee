"""Rules that match the last tokens so far: sequence biases, banned sequences, repeated n-grams.

They have the signature of `rules.Rule`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tbt_compile.runtime.generation.session import Scores, Tokens


@dataclass(frozen=True)
class _Endings:
    """Biased sequences of one length.

    Attributes:
        prefixes: int64 [n, length - 1], the sequences without their last tokens.
        columns: int64 [n], indices of the last tokens in `SequenceBias.tokens`.
        biases: float32 [n].
    """

    prefixes: Tokens
    columns: Tokens
    biases: Scores


@dataclass(frozen=True)
class SequenceBias:
    """Adds a bias to tokens that would complete a sequence; a bias of -inf bans the sequence.

    The biases of a token are summed before they are added to its score.

    Attributes:
        tokens: int64 [n], the last tokens of all sequences, ascending and unique.
        unconditional: float32 [n], biases from sequences of length one.
        endings: longer sequences, by length.
    """

    tokens: Tokens
    unconditional: Scores
    endings: tuple[_Endings, ...]

    @classmethod
    def of(cls, pairs: Iterable[tuple[tuple[int, ...], float]]) -> SequenceBias:
        """Make the rule from pairs (sequence, bias); of equal sequences the last counts."""
        biases = dict(pairs)
        tokens = sorted({sequence[-1] for sequence in biases})
        unconditional = np.array([biases.get((token,), 0.0) for token in tokens], np.float32)
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for sequence in biases:
            if len(sequence) > 1:
                by_length.setdefault(len(sequence), []).append(sequence)
        endings = tuple(
            _Endings(
                np.array([sequence[:-1] for sequence in group], np.int64),
                np.searchsorted(tokens, [sequence[-1] for sequence in group]),
                np.array([biases[sequence] for sequence in group], np.float32),
            )
            for group in by_length.values()
        )
        return cls(np.array(tokens, np.int64), unconditional, endings)

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        total = np.tile(self.unconditional, (len(ids), 1))
        for ending in self.endings:
            length = ending.prefixes.shape[1]
            if length <= ids.shape[1]:
                matches = (ids[:, None, -length:] == ending.prefixes).all(axis=2)
                rows, which = np.nonzero(matches)
                np.add.at(total, (rows, ending.columns[which]), ending.biases[which])
        scores[:, self.tokens] += total


@dataclass(frozen=True)
class NoRepeatNgram:
    """Bans tokens that would repeat an n-gram of the sequence."""

    size: int

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        windows = ids.shape[1] - self.size + 1
        if windows <= 0:
            return
        # A window whose first size - 1 tokens equal the last ones bans its last token.
        matches = np.ones((len(ids), windows), bool)
        for offset in range(self.size - 1):
            matches &= ids[:, offset : offset + windows] == ids[:, windows + offset, None]
        rows, begins = np.nonzero(matches)
        tokens = ids[rows, begins + self.size - 1]
        inside = tokens < scores.shape[1]
        scores[rows[inside], tokens[inside]] = -np.inf


@dataclass(frozen=True)
class NoEncoderNgram:
    """Bans n-grams of the input in its output; `following` maps n - 1 tokens of an input to the next ones."""

    size: int
    following: tuple[dict[tuple[int, ...], list[int]], ...]

    @classmethod
    def of(cls, size: int, encoder_input_ids: Tokens) -> NoEncoderNgram:
        """Make the rule for n-grams of `size` tokens of `encoder_input_ids`, int64 [inputs, length]."""
        maps = []
        for sequence in encoder_input_ids.tolist():
            following: dict[tuple[int, ...], list[int]] = {}
            for begin in range(len(sequence) - size + 1):
                *prefix, last = sequence[begin : begin + size]
                following.setdefault(tuple(prefix), []).append(last)
            maps.append(following)
        return cls(size, tuple(maps))

    def __call__(self, ids: Tokens, scores: Scores, inputs: Tokens) -> None:
        length = ids.shape[1]
        if length < self.size - 1:
            return
        for row, prefix in enumerate(ids[:, length - self.size + 1 :].tolist()):
            banned = self.following[inputs[row]].get(tuple(prefix), [])
            scores[row, [token for token in banned if token < scores.shape[1]]] = -np.inf
