"""Evaluation of one model on one set of pairs: ROUGE, BLEU, length and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from tbt_compile.data.text_pairs import TextPair
from tbt_compile.evaluation.generation import DecodeSettings, Generated, generate_texts
from tbt_compile.evaluation.scores import bleu, rouge
from tbt_compile.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a test set: ROUGE and BLEU from 0 to 100, mean length in tokens."""

    sentences: int
    num_beams: int
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815
    rougeLsum: float  # noqa: N815
    bleu: float
    bleu_signature: str
    mean_length: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Every figure, as JSON-ready values."""
        return asdict(self)


def evaluate_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[TextPair],
    decode: DecodeSettings,
    *,
    progress: Progress | None = None,
    title: str = "evaluating",
) -> tuple[Evaluation, Generated]:
    """Generate a text for every pair and score it against the target.

    Args:
        model, tokenizer, decode, progress, title: as for `generate_texts`.
        pairs: sources and reference texts.

    Returns:
        The scores, and the texts that were scored.

    Raises:
        GenerationError: see `generate_texts`.
        DataError: there are no pairs.
    """
    sources = [pair.source for pair in pairs]
    generated = generate_texts(model, tokenizer, sources, decode, progress=progress, title=title)
    return score(generated, [pair.target for pair in pairs], decode.num_beams), generated


def score(generated: Generated, references: Sequence[str], num_beams: int) -> Evaluation:
    """Score generated texts.

    Args:
        generated: output of `generate_texts`.
        references: one per text, in the same order.
        num_beams: of the search, for the report.

    Raises:
        DataError: there are no texts, or not one reference for each.
    """
    rouge_scores = rouge(generated.texts, references)
    bleu_score = bleu(generated.texts, references)
    return Evaluation(
        sentences=len(references),
        num_beams=num_beams,
        rouge1=rouge_scores.rouge1,
        rouge2=rouge_scores.rouge2,
        rougeL=rouge_scores.rougeL,
        rougeLsum=rouge_scores.rougeLsum,
        bleu=bleu_score.score,
        bleu_signature=bleu_score.signature,
        mean_length=generated.mean_length,
        seconds=generated.seconds,
    )
