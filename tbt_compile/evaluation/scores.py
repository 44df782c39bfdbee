"""Scores of generated texts: ROUGE (F-measure, Porter stemming), BLEU, word errors, token agreement."""

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
    """Mean ROUGE F-measures from 0 to 100: unigrams, bigrams and longest common subsequence.

    `rougeLsum` computes the longest common subsequence per sentence, as papers on longer summaries do.
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
    """ROUGE of predictions against one reference each.

    Raises:
        DataError: there are no predictions, or not one reference for each.

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
    """One sentence per line, the sentence separator of rouge-score."""
    return "\n".join(sentences(text))


def sentences(text: str) -> list[str]:
    """Split a text into sentences by punctuation.

    >>> sentences("Shares fell 3.5 percent. Nobody knew why.")
    ['Shares fell 3.5 percent.', 'Nobody knew why.']
    """
    return _SENTENCE_END.split(text.strip())


@dataclass(frozen=True)
class BleuScore:
    """BLEU from 0 to 100, with sacrebleu's signature, which a comparison needs."""

    score: float
    signature: str


def bleu(predictions: Sequence[str], references: Sequence[str]) -> BleuScore:
    """Corpus BLEU of predictions against one reference each, with sacrebleu's default tokenization.

    Raises:
        DataError: there are no predictions, or not one reference for each.
    """
    from sacrebleu.metrics import BLEU

    _require_pairs(predictions, references)
    metric = BLEU()
    score = metric.corpus_score(list(predictions), [list(references)]).score
    return BleuScore(float(score), str(metric.get_signature()))


def word_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Words to insert, delete and replace in all predictions, in percent of the words of all references.

    Case and punctuation count.

    Raises:
        DataError: there are no predictions, not one reference for each, or only empty references.

    >>> word_error_rate(["a cat sat"], ["the cat sat down"])
    50.0
    """
    _require_pairs(predictions, references)
    pairs = [
        (text.split(), reference.split()) for text, reference in zip(predictions, references, strict=True)
    ]
    words = sum(len(reference) for _, reference in pairs)
    if not words:
        raise DataError("the references have no words: expected at least one, to count errors by")
    return 100.0 * sum(_edits(text, reference) for text, reference in pairs) / words


def _edits(first: Sequence[str], second: Sequence[str]) -> int:
    """The Levenshtein distance."""
    row = list(range(len(second) + 1))
    for number, word in enumerate(first, start=1):
        last, row[0] = row[0], number
        for place, other in enumerate(second, start=1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (word != other))
    return row[-1]


def token_agreement(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """The share of sequences, from 0 to 1, that are identical token for token.

    Raises:
        DataError: the numbers of sequences differ, or there are none.

    >>> token_agreement([[5, 6], [7]], [[5, 6], [8]])
    0.5
    """
    if len(first) != len(second) or not first:
        raise DataError(
            f"token sequences to compare: {len(first)} and {len(second)}, expected equal numbers, "
            "at least one"
        )
    return sum(list(a) == list(b) for a, b in zip(first, second, strict=True)) / len(first)


def _require_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raise a `DataError` unless there is one reference per prediction, and at least one of each."""
    if len(predictions) != len(references) or not predictions:
        raise DataError(
            f"{len(predictions)} predictions and {len(references)} references: expected one reference for "
            "each, and at least one"
        )
