"""Rules that look at how the tokens so far end: biased and banned sequences, repeated n-grams.

They are called like the rules of `rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tbt_compile.runtime.generation.session import Scores, Tokens


@dataclass(frozen=True)
class _Endings:
    """Sequences of one length: their prefixes [n, length - 1], the biases of their last tokens and, of those
    tokens, the places in `SequenceBias.tokens`."""

    prefixes: Tokens
    places: Tokens
    biases: Scores


@dataclass(frozen=True)
class SequenceBias:
    """Adds a bias to the token that would complete a sequence; a bias of minus infinity bans it.

    The biases of one token are summed before they meet its score.
    """

    tokens: Tokens
    alone: Scores
    endings: tuple[_Endings, ...]

    @classmethod
    def of(cls, pairs: Iterable[tuple[tuple[int, ...], float]]) -> SequenceBias:
        """The rule for pairs (sequence, bias); of equal sequences the last counts."""
        biases = dict(pairs)
        tokens = sorted({sequence[-1] for sequence in biases})
        alone = np.array([biases.get((token,), 0.0) for token in tokens], np.float32)
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
        return cls(np.array(tokens, np.int64), alone, endings)

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        total = np.tile(self.alone, (len(ids), 1))
        for ending in self.endings:
            length = ending.prefixes.shape[1]
            if length <= ids.shape[1]:
                matches = (ids[:, None, -length:] == ending.prefixes).all(axis=2)
                rows, which = np.nonzero(matches)
                np.add.at(total, (rows, ending.places[which]), ending.biases[which])
        scores[:, self.tokens] += total


@dataclass(frozen=True)
class NoRepeatNgram:
    """No n-gram of a sequence comes twice."""

    size: int

    def __call__(self, ids: Tokens, scores: Scores, _inputs: Tokens) -> None:
        windows = ids.shape[1] - self.size + 1
        if windows <= 0:
            return
        # A window whose first tokens are the present ending bans its own last token.
        matches = np.ones((len(ids), windows), bool)
        for offset in range(self.size - 1):
            matches &= ids[:, offset : offset + windows] == ids[:, windows + offset, None]
        rows, begins = np.nonzero(matches)
        tokens = ids[rows, begins + self.size - 1]
        inside = tokens < scores.shape[1]
        scores[rows[inside], tokens[inside]] = -np.inf


@dataclass(frozen=True)
class NoEncoderNgram:
    """No n-gram of the input comes in its output; `following` maps n - 1 tokens of an input to the next."""

    size: int
    following: tuple[dict[tuple[int, ...], list[int]], ...]

    @classmethod
    def of(cls, size: int, encoder_input_ids: Tokens) -> NoEncoderNgram:
        """The rule for n-grams of `size` tokens of `encoder_input_ids`, int64 [inputs, length]."""
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
