"""The demo's data set, tokenizer and trivial baselines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tbt_compile.data.batches import Corpus, TextLengths
from tbt_compile.data.text_pairs import TextData, TextPair, load_folder, write_pairs
from tbt_compile.data.tokenization import load_tokenizer, train_word_tokenizer
from tbt_compile.demo.grammar import NewsItem, make_items
from tbt_compile.evaluation import RougeScores, constant_baseline, lead_baseline
from tbt_compile.storage.os_errors import writing
from tbt_compile.training.record import TrainingRecord

LENGTHS = TextLengths(source=64, target=16)
"""Longer than the longest item and summary."""
UNSEEN_SHARE = 0.5
"""Share of test items about people, towns and companies that no training item names."""


@dataclass(frozen=True)
class DemoTask:
    """News items and summaries with their tokenizer and the scores of the trivial baselines.

    Attributes:
        data: the splits train and test.
        tokenizer: one token per word.
        lead_copy: score of copying the first sentence.
        constant: score of writing the same text for every item.
    """

    data: TextData
    tokenizer: PreTrainedTokenizerBase
    lead_copy: RougeScores
    constant: RougeScores

    @property
    def corpus(self) -> Corpus:
        """The training pairs as a corpus."""
        return Corpus(self.data.train, self.tokenizer, LENGTHS)


def build_items(train: int, test: int, seed: int) -> tuple[list[NewsItem], list[NewsItem]]:
    """Generate training and test items with no item or summary in common.

    Half of the test items are about reserved names.

    Args:
        train, test: numbers of items.
        seed: of the training items; the test items have the next one.
    """
    train_items = make_items(train, seed)
    known = frozenset(text for item in train_items for text in (item.source, item.target))
    return train_items, make_items(test, seed + 1, UNSEEN_SHARE, known)


def build_task(folder: str | Path, train: int, test: int, seed: int, resume: bool = True) -> DemoTask:
    """Make the data set and the tokenizer, or load those of an earlier call.

    Args:
        folder: for data/ and tokenizer/.
        train, test, seed: as for `build_items`.
        resume: load what the folder holds; otherwise make it again.

    Raises:
        DataError: a file in the folder is malformed.
        TrainingError: `resume`, and the folder holds a data set of another size or seed.
    """
    folder = Path(folder)
    record = TrainingRecord(folder / "data", {"train": train, "test": test, "seed": seed})
    if record.open(resume) is None:
        _write(folder, train, test, seed)
        record.finish({"made": True})
    data = load_folder(folder / "data")
    return DemoTask(
        data,
        load_tokenizer(folder / "tokenizer"),
        lead_baseline(data.test),
        constant_baseline(data.train, data.test)[1],
    )


def _write(folder: Path, train: int, test: int, seed: int) -> None:
    for split, items in zip(("train", "test"), build_items(train, test, seed), strict=True):
        write_pairs(
            folder / "data" / f"{split}.jsonl", [TextPair(item.source, item.target) for item in items]
        )
    tokenizer = train_word_tokenizer(load_folder(folder / "data").texts())
    with writing(folder / "tokenizer"):
        tokenizer.save_pretrained(folder / "tokenizer")
