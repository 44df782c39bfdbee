"""ROUGE with the `rouge-score` package, as summarization papers do: F-measure with Porter stemming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tbt_compile.errors import DataError
from tbt_compile.evaluation.sentences import sentences


@dataclass(frozen=True)
class RougeScores:
    """Mean F-measures between 0 and 100: of words, of word pairs, of the longest common subsequence.

    `rougeLsum` takes that subsequence sentence by sentence, as papers on longer summaries do.
    """

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815  (the names that the package and the papers use)
    rougeLsum: float  # noqa: N815


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)


def rouge(predictions: Sequence[str], references: Sequence[str]) -> RougeScores:
    """Scores of predictions against one reference each.

    Raises:
        DataError: there are none, or not as many predictions as references.

    >>> rouge(["the cat sat"], ["the cat ran"])
    RougeScores(rouge1=66.66666666666666, rouge2=50.0, rougeL=66.66666666666666, rougeLsum=66.66666666666666)
    """
    require_pairs(predictions, references)
    scores = [
        _scorer().score(_lines(reference), _lines(text))
        for text, reference in zip(predictions, references, strict=True)
    ]

    def mean(name: str) -> float:
        return 100.0 * sum(score[name].fmeasure for score in scores) / len(scores)

    return RougeScores(mean("rouge1"), mean("rouge2"), mean("rougeL"), mean("rougeLsum"))


def _lines(text: str) -> str:
    """One sentence a line, which is how the package is told of sentences."""
    return "\n".join(sentences(text))


def require_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raise a `DataError` unless there is one reference per prediction, and at least one of each."""
    if len(predictions) != len(references) or not predictions:
        raise DataError(
            f"{len(predictions)} predictions and {len(references)} references: expected one reference for "
            "each, "
            "and at least one"
        )
