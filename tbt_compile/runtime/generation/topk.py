"""Top-k continuations of beams over a large vocabulary, without sorting or partitioning all of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tbt_compile.runtime.generation.session import Scores, Tokens

_GROUPS = 512
"""Tokens are grouped by their remainder modulo this. With 50,000 tokens, a step reads every score once for
the maxima of the groups, and then only the 100 members of each group that can hold a winner."""


class Continuations(NamedTuple):
    """The k best continuations per input, best first.

    Attributes:
        scores: float32 [inputs, k].
        beams: int64 [inputs, k], the beams that they continue.
        tokens: int64 [inputs, k], the tokens that they append.
    """

    scores: Scores
    beams: Tokens
    tokens: Tokens


def best_continuations(log_probs: Scores, beam_scores: Scores, k: int) -> Continuations:
    """Find the k largest values of `beam_scores[i, b] + log_probs[i, b, t]` for every input i.

    Ties go to the lower beam, then to the lower token. An input's scores are NaN if one of its
    log-probabilities is NaN.

    Args:
        log_probs: float32 [inputs, beams, vocabulary], contiguous.
        beam_scores: float32 [inputs, beams].
        k: at most beams * vocabulary.

    Returns:
        The continuations, best first.
    """
    inputs, _, vocabulary = log_probs.shape
    scores = np.empty((inputs, k), np.float32)
    indices = np.empty((inputs, k), np.int64)
    with np.errstate(over="ignore"):
        for item in range(inputs):
            scores[item], indices[item] = _best_of_input(log_probs[item], beam_scores[item], k)
    return Continuations(scores, *np.divmod(indices, vocabulary))


def _best_of_input(log_probs: Scores, beam_scores: Scores, k: int) -> tuple[Scores, Tokens]:
    vocabulary = log_probs.shape[1]
    maxima = np.stack([_group_maxima(row) for row in log_probs]) + beam_scores[:, None]
    width = maxima.shape[1]
    threshold = _kth_largest(maxima.reshape(-1), k)
    if np.isnan(threshold):
        return np.full(k, np.nan, np.float32), np.zeros(k, np.int64)
    # k group maxima reach the threshold, so no value below it is among the k largest.
    chosen = np.flatnonzero(maxima >= threshold).tolist()
    if len(chosen) > 4 * k:
        # If nearly all tokens are banned, nearly all groups tie at -inf: rank everything.
        totals = (log_probs + beam_scores[:, None]).reshape(-1)
        return _first_largest(totals, np.arange(totals.size), k)
    totals = np.concatenate(
        [log_probs[c // width, c % width :: width] + beam_scores[c // width] for c in chosen]
    )
    indices = np.concatenate(
        [np.arange(c // width * vocabulary + c % width, (c // width + 1) * vocabulary, width) for c in chosen]
    )
    return _first_largest(totals, indices, k)


def _group_maxima(row: Scores) -> Scores:
    width = min(_GROUPS, len(row))
    whole = len(row) // width * width
    maxima = row[:whole].reshape(-1, width).max(axis=0)
    rest = row[whole:]
    np.maximum(maxima[: len(rest)], rest, out=maxima[: len(rest)])
    return maxima


def _kth_largest(values: Scores, k: int) -> np.float32:
    """Return the k-th largest value, or the smallest if there are fewer; NaN if a value is NaN."""
    if np.isnan(values.max()):
        return np.float32(np.nan)
    return values.min() if len(values) < k else np.partition(values, len(values) - k)[len(values) - k]


def _first_largest(values: Scores, indices: Tokens, k: int) -> tuple[Scores, Tokens]:
    """Return the k largest values, descending, with their indices; ties go to the lower index."""
    threshold = _kth_largest(values, k)
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)
    equal = equal[np.argsort(indices[equal])[: k - len(above)]]
    above = above[np.lexsort((indices[above], -values[above]))]
    order = np.concatenate([above, equal])
    return values[order], indices[order]
