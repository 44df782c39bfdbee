"""Text pairs as token ids and as padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tbt_compile.data.text_pairs import TextPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100
"""Label of padding: the value that torch's and transformers' losses skip."""


@dataclass(frozen=True)
class TextLengths:
    """How many tokens sources and targets may have; longer ones are cut."""

    source: int = 64
    target: int = 64

    @property
    def longest(self) -> int:
        """Positions that a model needs."""
        return max(self.source, self.target)

    def to_dict(self) -> dict[str, int]:
        """As they stand in records of runs."""
        return {"max_source_length": self.source, "max_target_length": self.target}


@dataclass(frozen=True)
class Corpus:
    """Text pairs, the tokenizer that turns them into ids, and the lengths that they are cut to."""

    pairs: Sequence[TextPair]
    tokenizer: PreTrainedTokenizerBase
    lengths: TextLengths

    def __len__(self) -> int:
        return len(self.pairs)

    def dataset(self) -> PairDataset:
        """The pairs as token ids."""
        return PairDataset(self)

    def collator(self) -> PairCollator:
        """What joins rows of the data set to batches."""
        return PairCollator(int(self.tokenizer.pad_token_id or 0))


class PairDataset(Dataset[dict[str, list[int]]]):
    """The pairs of a corpus as token ids: `input_ids` and `labels`, both ending with end-of-text."""

    def __init__(self, corpus: Corpus) -> None:
        sources = [pair.source for pair in corpus.pairs]
        targets = [pair.target for pair in corpus.pairs]
        tokenizer, lengths = corpus.tokenizer, corpus.lengths
        self.inputs = tokenizer(sources, truncation=True, max_length=lengths.source)["input_ids"]
        # A multilingual tokenizer marks targets with their own language.
        self.labels = tokenizer(text_target=targets, truncation=True, max_length=lengths.target)["input_ids"]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.inputs[index], "labels": self.labels[index]}


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """int64 [B, T]: rows of different lengths, filled up on the right.

    >>> pad_right([[5, 6, 7], [8]], 1).tolist()
    [[5, 6, 7], [8, 1, 1]]
    """
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


@dataclass(frozen=True)
class PairCollator:
    """Pads rows of a `PairDataset` to a batch: input_ids, attention_mask, labels, each int64 [B, T]."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        inputs = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad_right(inputs, self.pad_token_id),
            "attention_mask": pad_right([[1] * len(row) for row in inputs], 0),
            "labels": pad_right([row["labels"] for row in rows], IGNORED_LABEL),
        }
