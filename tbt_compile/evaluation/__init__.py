"""Evaluation: scores of texts, perplexity, accuracy, word errors, token agreement, and trivial baselines."""

from tbt_compile.evaluation.generation import (
    DecodeSettings,
    Generated,
    generate_texts,
    milliseconds_per_sentence,
)
from tbt_compile.evaluation.report import Evaluation, evaluate_model
from tbt_compile.evaluation.scores import (
    BleuScore,
    RougeScores,
    bleu,
    rouge,
    token_agreement,
    word_error_rate,
)
from tbt_compile.evaluation.trivial_baselines import constant_baseline, lead_baseline, lead_sentence

__all__ = [
    "BleuScore",
    "DecodeSettings",
    "Evaluation",
    "Generated",
    "RougeScores",
    "bleu",
    "constant_baseline",
    "evaluate_model",
    "generate_texts",
    "lead_baseline",
    "lead_sentence",
    "milliseconds_per_sentence",
    "rouge",
    "token_agreement",
    "word_error_rate",
]
