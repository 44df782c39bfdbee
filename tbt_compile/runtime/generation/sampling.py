"""Sampling: the next token is drawn from the distribution that the scores define.

The distribution is the one of transformers' warpers, in their order: scores / `temperature`; the `top_k`
largest scores, and those equal to the smallest of them; the smallest set of most probable tokens whose
probabilities sum to `top_p`; the tokens at least `min_p` times as probable as the most probable one. A token
of the rest is drawn by inversion: the first, in the order of ids, whose cumulative probability exceeds a
uniform number.

Uniform numbers come from one stream per row, which the seed and the row's number determine: what is drawn for
a row does not depend on its batch. Exponentials and sums are float64 operations in a fixed order, so that it
does not depend on the CPU either.
"""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.generation.session import DecoderSession, Scores, Tokens
from tbt_compile.runtime.generation.settings import GenerationSettings

Doubles = npt.NDArray[np.float64]


class Sampler:
    """Draws a token for every row.

    Args:
        settings: `temperature`, `top_k`, `top_p`, `min_p` and `seed`; without a seed, one is made up.
        streams: int64 [inputs], the number of each input's stream.
    """

    def __init__(self, settings: GenerationSettings, streams: Tokens) -> None:
        self._settings = settings
        seed = secrets.randbits(64) if settings.seed is None else settings.seed
        self._streams = [np.random.Philox(np.random.SeedSequence((seed, int(row)))) for row in streams]

    def __call__(self, scores: Scores, inputs: Tokens) -> Tokens:
        """Draw the next token of every row.

        Args:
            scores: float32 [rows, vocabulary].
            inputs: int64 [rows], the input of each row.

        Returns:
            int64 [rows]; where a score is NaN, its token.

        Raises:
            GenerationError: every token of a row is banned, or a score is infinite.
        """
        return np.array(
            [self._draw(row, self._uniform(number)) for row, number in zip(scores, inputs, strict=True)]
        )

    def _uniform(self, number: int) -> float:
        """The next number of a stream, in [0, 1), a multiple of 2^-53."""
        return float(int(self._streams[number].random_raw()) >> 11) * 2.0**-53

    def _draw(self, scores: Scores, uniform: float) -> int:
        best = scores.argmax()
        if np.isnan(scores[best]):
            return int(best)
        if not np.isfinite(scores[best]):
            raise GenerationError(
                f"there is no distribution to sample from: the largest score is {scores[best]}; every token "
                "is banned, or the scores are damaged"
            )
        tokens, weights = kept(scores, self._settings)
        cumulative = weights.cumsum()
        place = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
        return int(tokens[min(place, len(tokens) - 1)])


def kept(scores: Scores, settings: GenerationSettings) -> tuple[Tokens, Doubles]:
    """The tokens that can be drawn, and the weight of each.

    Args:
        scores: float32 [vocabulary], the largest one finite.
        settings: `temperature`, `top_k`, `top_p` and `min_p`.

    Returns:
        Tokens, int64 [n], ascending; weights, float64 [n], probabilities times a common factor.
    """
    scores = _divided(scores, settings.temperature)
    least = np.float32(-np.inf)
    if 0 < settings.top_k < len(scores):
        least = np.partition(scores, -settings.top_k)[-settings.top_k]
    tokens = np.flatnonzero((scores >= least) & (scores > -np.inf))
    weights = exponential(scores[tokens].astype(np.float64) - np.float64(scores.max()))
    if settings.top_p < 1:
        # Sorted values, unlike an order of places, are the same on every CPU; ties are kept together.
        ascending = np.sort(weights)
        cumulative = ascending.cumsum()
        first = cumulative.searchsorted((1 - settings.top_p) * cumulative[-1], side="right")
        inside = weights >= ascending[min(first, len(ascending) - 1)]
        tokens, weights = tokens[inside], weights[inside]
    if settings.min_p > 0:
        inside = weights >= settings.min_p  # the largest weight is 1
        tokens, weights = tokens[inside], weights[inside]
    return tokens, weights


def _divided(scores: Scores, temperature: float) -> Scores:
    """Scores / temperature; where that overflows, less the largest score, which changes no probability."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        divided: Scores = scores / np.float32(temperature)
        if not np.isfinite(divided.max()):
            apart = scores.astype(np.float64) - np.float64(scores.max())
            divided = (apart / temperature).astype(np.float32)
    return divided


_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
"""ln(2) in two parts; products of the first with numbers below 2^20 are exact."""
_FACTORIALS = [1.0 / np.prod(np.arange(1, n + 1, dtype=np.float64)) for n in range(14)]
_CACHED = 2**14
"""Numbers that take all steps of an exponential before the next ones do, so that they stay in the cache."""


def exponential(x: Doubles) -> Doubles:
    """e^x for x [n] of at most 0, by one sequence of IEEE operations: NumPy's own differs between CPUs.

    2^n e^r with r within ln(2) / 2, where e^r is the Taylor polynomial of degree 13; off by 2 units in the
    last place at most.
    """
    result = np.empty_like(x)
    for start in range(0, len(x), _CACHED):
        _exponential(x[start : start + _CACHED], result[start : start + _CACHED])
    return result


def _exponential(x: Doubles, result: Doubles) -> None:
    x = np.maximum(x, -745.0)  # below, e^x is 0 or the smallest number
    n = np.rint(x * _LOG2_E)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    result[:] = _FACTORIALS[-1]
    for coefficient in _FACTORIALS[-2::-1]:
        result *= r
        result += coefficient
    exponent = n.astype(np.int64)
    if exponent.min() < np.finfo(np.float64).minexp:
        np.ldexp(result, exponent, out=result)
    else:  # the same, without a call for each: normal powers of two by their bits
        result *= ((exponent + 1023) << 52).view(np.float64)


class Copies:
    """A session in which every input has several rows, from its first step on.

    Args:
        session: before its first step.
        copies: rows of each input.
    """

    def __init__(self, session: DecoderSession, copies: int) -> None:
        self._session, self._copies, self._started = session, copies, False

    def step(self, tokens: Tokens) -> Scores:
        """As `DecoderSession.step`; the first call has the prompts of all rows."""
        if self._started:
            return self._session.step(tokens)
        self._started = True
        logits = self._session.step(np.ascontiguousarray(tokens[:: self._copies]))
        rows = np.arange(len(logits)).repeat(self._copies)
        repeated = logits[rows]
        self._session.reorder(rows)
        return repeated

    def reorder(self, rows: Tokens) -> None:
        """As `DecoderSession.reorder`."""
        self._session.reorder(rows)
