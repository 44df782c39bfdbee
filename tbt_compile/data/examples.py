"""`Examples`: what a model is trained on, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset

IGNORED_LABEL = -100
"""Label of what counts in no loss, as torch and transformers have it: padding, prompts."""
Row: TypeAlias = dict[str, Any]
"""One example: lists of token ids, features, a label."""
Collator: TypeAlias = "Callable[[Sequence[Row]], dict[str, Tensor]]"
"""Makes a batch of rows."""


class RowDataset(Dataset[Row]):
    """Rows in memory.

    Attributes:
        rows: the examples.
        lengths: tokens of each, by which examples of similar length are batched.
    """

    def __init__(self, rows: Sequence[Row], lengths: Sequence[int]) -> None:
        self.rows, self.lengths = rows, lengths

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class Examples(ABC):
    """Training examples with everything that turns them into batches: a tokenizer, lengths, a template."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abstractmethod
    def dataset(self) -> RowDataset:
        """The examples as rows."""

    @abstractmethod
    def collator(self) -> Collator:
        """What makes batches of these rows."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """All that determines the batches, JSON-ready, with hashes in place of texts."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write to a model's folder what it needs besides its weights: the tokenizer."""
