"""Scores of texts: ROUGE as summarization papers have it (F-measure, Porter stemming), BLEU, same tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tbt_compile.errors import DataError

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")


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
    _require_pairs(predictions, references)
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


def sentences(text: str) -> list[str]:
    """The sentences of a text, told apart by punctuation alone.

    >>> sentences("Shares fell 3.5 percent. Nobody knew why.")
    ['Shares fell 3.5 percent.', 'Nobody knew why.']
    """
    return _SENTENCE_END.split(text.strip())


@dataclass(frozen=True)
class BleuScore:
    """BLEU between 0 and 100, and sacrebleu's signature, without which the figure cannot be compared."""

    score: float
    signature: str


def bleu(predictions: Sequence[str], references: Sequence[str]) -> BleuScore:
    """Corpus BLEU of predictions against one reference each, with sacrebleu's default tokenization.

    Raises:
        DataError: there are none, or not as many predictions as references.
    """
    from sacrebleu.metrics import BLEU

    _require_pairs(predictions, references)
    metric = BLEU()
    score = metric.corpus_score(list(predictions), [list(references)]).score
    return BleuScore(float(score), str(metric.get_signature()))


def token_agreement(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Share of the sequences, between 0 and 1, that are the same token for token.

    Raises:
        DataError: the two hold different numbers of sequences, or none.

    >>> token_agreement([[5, 6], [7]], [[5, 6], [8]])
    0.5
    """
    if len(first) != len(second) or not first:
        raise DataError(
            f"token sequences to compare: {len(first)} and {len(second)}, expected as many, at least one"
        )
    return sum(list(a) == list(b) for a, b in zip(first, second, strict=True)) / len(first)


def _require_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raise a `DataError` unless there is one reference per prediction, and at least one of each."""
    if len(predictions) != len(references) or not predictions:
        raise DataError(
            f"{len(predictions)} predictions and {len(references)} references: expected one reference for "
            "each, and at least one"
        )
