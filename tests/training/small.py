"""A few sentences, a tokenizer and a very small teacher for the tests of training."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.text_pairs import TextPair
from tbt_compile.data.tokenization import train_word_tokenizer
from tbt_compile.demo.grammar import make_items
from tbt_compile.training import ModelSize, TrainingRun, TrainSettings, new_model, train_teacher
from tbt_compile.training.stages import distill

PAIRS = [TextPair(item.source, item.target) for item in make_items(60, seed=5)]
SIZE = ModelSize(width=16, layers=1, heads=2, inner=32, dropout=0.1)
LENGTHS = TextLengths(source=40, target=12)
SETTINGS = TrainSettings(steps=12, batch_size=8, save_every=5, seed=3)


def tokenizer() -> PreTrainedTokenizerBase:
    return train_word_tokenizer(text for pair in PAIRS for text in (pair.source, pair.target))


def corpus() -> Corpus:
    return Corpus(PAIRS, tokenizer(), LENGTHS)


def batch_of(rows: int) -> dict[str, Tensor]:
    """The first rows of the corpus as a batch."""
    dataset = corpus().dataset()
    return corpus().collator()([dataset[row] for row in range(rows)])


def model() -> PreTrainedModel:
    return new_model(SIZE, tokenizer(), max_length=40)


def teacher(folder: Path, **options: object) -> PreTrainedModel:
    """A teacher trained in a folder; options are fields of `TrainingRun`."""
    return train_teacher(model(), corpus(), TrainingRun(folder, **{"settings": SETTINGS, **options}))


def student(folder: Path, **options: object) -> PreTrainedModel:
    """A student trained in a folder; options are fields of `TrainingRun` or arguments of `distill`."""
    arguments = {"recipe": "1-1-1", "teacher": model(), "settings": SETTINGS, **options}
    run = {field.name: arguments.pop(field.name) for field in fields(TrainingRun) if field.name in arguments}
    return distill(
        arguments.pop("teacher"), arguments.pop("recipe"), corpus(), TrainingRun(folder, **run), **arguments
    )
