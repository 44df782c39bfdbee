"""Corpus BLEU with sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tbt_compile.evaluation.rouge import require_pairs


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

    require_pairs(predictions, references)
    metric = BLEU()
    score = metric.corpus_score(list(predictions), [list(references)]).score
    return BleuScore(float(score), str(metric.get_signature()))
