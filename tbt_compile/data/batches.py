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
"""Label of padding, which the losses of torch and transformers ignore."""


@dataclass(frozen=True)
class TextLengths:
    """Maximum tokens of sources and targets; longer ones are truncated."""

    source: int = 64
    target: int = 64

    @property
    def longest(self) -> int:
        """The positions that a model needs."""
        return max(self.source, self.target)

    def to_dict(self) -> dict[str, int]:
        """The lengths as they appear in the records of runs."""
        return {"max_source_length": self.source, "max_target_length": self.target}


@dataclass(frozen=True)
class Corpus:
    """Text pairs with their tokenizer and the lengths to truncate to."""

    pairs: Sequence[TextPair]
    tokenizer: PreTrainedTokenizerBase
    lengths: TextLengths

    def __len__(self) -> int:
        return len(self.pairs)

    def dataset(self) -> PairDataset:
        """The pairs as token ids."""
        return PairDataset(self)

    def collator(self) -> PairCollator:
        """The collator that pads rows of the data set to batches."""
        return PairCollator(int(self.tokenizer.pad_token_id or 0))


class PairDataset(Dataset[dict[str, list[int]]]):
    """The pairs of a corpus as token ids: `input_ids` and `labels`, both with a final end token."""

    def __init__(self, corpus: Corpus) -> None:
        sources = [pair.source for pair in corpus.pairs]
        targets = [pair.target for pair in corpus.pairs]
        tokenizer, lengths = corpus.tokenizer, corpus.lengths
        self.inputs = tokenizer(sources, truncation=True, max_length=lengths.source)["input_ids"]
        # `text_target` makes a multilingual tokenizer use the target language.
        self.labels = tokenizer(text_target=targets, truncation=True, max_length=lengths.target)["input_ids"]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.inputs[index], "labels": self.labels[index]}


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Pad rows of different lengths on the right: int64 `[B, T]`.

    >>> pad_right([[5, 6, 7], [8]], 1).tolist()
    [[5, 6, 7], [8, 1, 1]]
    """
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


@dataclass(frozen=True)
class PairCollator:
    """Pads rows of a `PairDataset` to a batch of int64 tensors.

    The batch has `input_ids` and `attention_mask` `[B, S]` and `labels` `[B, T]`.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        inputs = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad_right(inputs, self.pad_token_id),
            "attention_mask": pad_right([[1] * len(row) for row in inputs], 0),
            "labels": pad_right([row["labels"] for row in rows], IGNORED_LABEL),
        }
