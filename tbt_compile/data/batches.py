"""Text pairs as token ids and as padded batches, for encoder-decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tbt_compile.data.examples import IGNORED_LABEL, Examples, RowDataset
from tbt_compile.data.text_pairs import TextPair, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
class Corpus(Examples):
    """Text pairs with their tokenizer and the lengths to truncate to."""

    pairs: Sequence[TextPair]
    tokenizer: PreTrainedTokenizerBase
    lengths: TextLengths

    def __len__(self) -> int:
        return len(self.pairs)

    def dataset(self) -> RowDataset:
        """Rows of `input_ids` and `labels`, both with a final end token."""
        sources = [pair.source for pair in self.pairs]
        targets = [pair.target for pair in self.pairs]
        inputs = self.tokenizer(sources, truncation=True, max_length=self.lengths.source)["input_ids"]
        # `text_target` makes a multilingual tokenizer use the target language.
        labels = self.tokenizer(text_target=targets, truncation=True, max_length=self.lengths.target)
        rows = [
            {"input_ids": ids, "labels": target}
            for ids, target in zip(inputs, labels["input_ids"], strict=True)
        ]
        return RowDataset(rows, [len(ids) for ids in inputs])

    def collator(self) -> PairCollator:
        """The collator that pads rows of the data set to batches."""
        return PairCollator(int(self.tokenizer.pad_token_id or 0))

    def record(self) -> dict[str, Any]:
        """A hash of the pairs, and the lengths."""
        return {"data": digest(self.pairs), **self.lengths.to_dict()}

    def save(self, folder: Path) -> None:
        """Save the tokenizer."""
        self.tokenizer.save_pretrained(folder)


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Pad rows of different lengths on the right: int64 `[B, T]`.

    >>> pad_right([[5, 6, 7], [8]], 1).tolist()
    [[5, 6, 7], [8, 1, 1]]
    """
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


def pad_left(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Pad rows of different lengths on the left: int64 `[B, T]`.

    >>> pad_left([[5, 6, 7], [8]], 1).tolist()
    [[5, 6, 7], [1, 1, 8]]
    """
    return pad_right([row[::-1] for row in rows], value).flip(1)


@dataclass(frozen=True)
class PairCollator:
    """Pads rows of a `Corpus` to a batch of int64 tensors.

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
