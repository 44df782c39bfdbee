"""A tiny model of every kind that can be distilled, with examples to train it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from models import llama, t5
from test_speech import MELS, WINDOW, whisper
from training.small import LENGTHS, PAIRS, corpus, tokenizer
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tbt_compile.data.decoder_text import PromptCorpus, TextCorpus
from tbt_compile.data.examples import Examples
from tbt_compile.data.labeled_texts import LabeledCorpus, LabeledText
from tbt_compile.data.prompts import PromptTemplate
from tbt_compile.data.recordings import Recording, SpeechCorpus
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.evaluation import DecodeSettings, evaluate_model
from tbt_compile.evaluation.classification import accuracy, class_logits
from tbt_compile.evaluation.perplexity import perplexity
from tbt_compile.evaluation.transcription import evaluate_speech

TEMPLATE = PromptTemplate("{source} : ")
CLASSES = 3
SPOKEN = ["one two three", "two one", "four", "three four five one", "five two"]


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        model: makes one in full precision.
        examples: makes its training examples.
        score: its metric on a few of them.
        inputs: arguments of a call, or of `generate`, for which outputs are compared.
    """

    model: Callable[[], PreTrainedModel]
    examples: Callable[[], Examples]
    score: Callable[[Any], float]
    inputs: Callable[[], dict[str, torch.Tensor]]


def small_llama() -> PreTrainedModel:
    """A Llama with grouped heads and the vocabulary of the tokenizer."""
    return llama(1, vocab_size=len(tokenizer()), initializer_range=0.15)


def prompts() -> PromptCorpus:
    """The pairs as prompts and answers."""
    return PromptCorpus(PAIRS, tokenizer(), LENGTHS, TEMPLATE.text)


def texts() -> TextCorpus:
    """The sources as plain texts."""
    return TextCorpus([pair.source for pair in PAIRS], tokenizer(), block=48)


def classifier() -> PreTrainedModel:
    """A BERT with a head."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=CLASSES,
        initializer_range=0.5,
        pad_token_id=1,
    )
    return BertForSequenceClassification(config).eval()


def labelled() -> list[LabeledText]:
    """The sources, with a class that their lengths tell."""
    return [LabeledText(pair.source, len(pair.source) % CLASSES) for pair in PAIRS]


def spoken() -> list[Recording]:
    """Noise, and what was said."""
    generator = np.random.default_rng(0)
    return [
        Recording(generator.standard_normal((MELS, WINDOW), dtype=np.float32), SPOKEN[number % len(SPOKEN)])
        for number in range(24)
    ]


def speech() -> SpeechCorpus:
    """The recordings, with a tokenizer of their words."""
    return SpeechCorpus(spoken(), train_word_tokenizer(SPOKEN), max_target=8, start=60)


def _batch(examples: Examples) -> dict[str, torch.Tensor]:
    dataset = examples.dataset()
    batch = examples.collator()([dataset[row] for row in range(4)])
    return {name: value for name, value in batch.items() if name != "labels"}


def _prompt() -> dict[str, torch.Tensor]:
    from tbt_compile.data.batches import pad_left

    rows = TEMPLATE.prompts(tokenizer(), [pair.source for pair in PAIRS[:4]], LENGTHS.source)
    return {"input_ids": pad_left(rows, 1), "attention_mask": pad_left([[1] * len(row) for row in rows], 0)}


def _pairs_score(template: PromptTemplate | None = None) -> Callable[[Any], float]:
    decode = DecodeSettings(LENGTHS.source, 6, template=template)
    return lambda model: evaluate_model(model, tokenizer(), PAIRS[:4], decode)[0].rouge1


def _accuracy(model: Any) -> float:
    some = labelled()[:6]
    return accuracy(class_logits(model, tokenizer(), [text.text for text in some], 40), some).accuracy


KINDS = {
    "llama": Kind(small_llama, prompts, _pairs_score(TEMPLATE), _prompt),
    "llama-text": Kind(
        small_llama,
        texts,
        lambda model: perplexity(model, tokenizer(), texts().texts[:4], 48).perplexity,
        _prompt,
    ),
    "t5": Kind(
        lambda: t5(1, vocab_size=len(tokenizer()), initializer_factor=1.0),
        corpus,
        _pairs_score(),
        lambda: _batch(corpus()),
    ),
    "bert": Kind(
        classifier,
        lambda: LabeledCorpus(labelled(), tokenizer(), 40),
        _accuracy,
        lambda: _batch(LabeledCorpus(labelled(), tokenizer(), 40)),
    ),
    "whisper": Kind(
        whisper,
        speech,
        lambda model: evaluate_speech(model, speech().tokenizer, spoken()[:4], 6)[0].wer,
        lambda: _batch(speech()),
    ),
}
