"""Scoring generated text: ROUGE, BLEU, lengths, agreement of engines, and what copying alone would score."""

from tbt_compile.evaluation.agreement import token_agreement
from tbt_compile.evaluation.bleu import BleuScore, bleu
from tbt_compile.evaluation.generation import (
    DecodeSettings,
    Generated,
    generate_texts,
    milliseconds_per_sentence,
)
from tbt_compile.evaluation.report import Evaluation, evaluate_model
from tbt_compile.evaluation.rouge import RougeScores, rouge
from tbt_compile.evaluation.trivial_baselines import constant_floor, lead_copy_floor, lead_sentence

__all__ = [
    "BleuScore",
    "DecodeSettings",
    "Evaluation",
    "Generated",
    "RougeScores",
    "bleu",
    "constant_floor",
    "evaluate_model",
    "generate_texts",
    "lead_copy_floor",
    "lead_sentence",
    "milliseconds_per_sentence",
    "rouge",
    "token_agreement",
]
