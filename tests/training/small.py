"""A few sentences, a tokenizer and a very small teacher for the tests of training."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.text_pairs import TextPair
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.demo.grammar import make_items
from tbt_compile.training import ModelSize, TrainSettings, new_model, train_teacher
from tbt_compile.training.stages import distill

PAIRS = [TextPair(item.source, item.target) for item in make_items(60, seed=5)]
SIZE = ModelSize(width=16, layers=1, heads=2, inner=32, dropout=0.1)
LENGTHS = {"max_source_length": 40, "max_target_length": 12}
SETTINGS = TrainSettings(steps=12, batch_size=8, save_every=5, seed=3)


def tokenizer() -> PreTrainedTokenizerBase:
    return train_word_tokenizer(text for pair in PAIRS for text in (pair.source, pair.target))


def model() -> PreTrainedModel:
    return new_model(SIZE, tokenizer(), max_length=40)


def teacher(folder: Path, **options: object) -> PreTrainedModel:
    arguments = {"settings": SETTINGS, **LENGTHS, **options}
    return train_teacher(model(), PAIRS, tokenizer(), folder, **arguments)


def student(folder: Path, **options: object) -> PreTrainedModel:
    arguments = {"recipe": "1-1-1", "teacher": model(), "settings": SETTINGS, **LENGTHS, **options}
    return distill(arguments.pop("teacher"), arguments.pop("recipe"), PAIRS, tokenizer(), folder, **arguments)
