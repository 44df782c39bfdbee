"""Text for decoder-only models: prompts with their answers, or plain text in packed blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tbt_compile.data.batches import TextLengths, pad_right
from tbt_compile.data.examples import IGNORED_LABEL, Collator, Examples, Row, RowDataset
from tbt_compile.data.prompts import PromptTemplate
from tbt_compile.data.text_pairs import TextPair, digest
from tbt_compile.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptCorpus(Examples):
    """Text pairs as prompts and answers. The loss is that of the answers.

    Attributes:
        pairs: sources and targets.
        tokenizer: of the model.
        lengths: to which sources and targets are cut; the tokens of the template come on top.
        template: of the prompts, a text with `{source}` in it; None: the chat template of the tokenizer.
    """

    pairs: Sequence[TextPair]
    tokenizer: PreTrainedTokenizerBase
    lengths: TextLengths = field(default_factory=TextLengths)
    template: str | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def dataset(self) -> RowDataset:
        """Rows of `input_ids`, a prompt and its answer, and `labels`, those of the answer."""
        sources, targets = [pair.source for pair in self.pairs], [pair.target for pair in self.pairs]
        template = PromptTemplate(self.template)
        prompts = template.prompts(self.tokenizer, sources, self.lengths.source)
        answers = template.answers(self.tokenizer, targets, self.lengths.target)
        rows: list[Row] = [
            {"input_ids": prompt + answer, "labels": [IGNORED_LABEL] * len(prompt) + answer}
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return RowDataset(rows, [len(row["input_ids"]) for row in rows])

    def collator(self) -> Collator:
        """Pads on the right, as training needs: positions then count from the first token."""
        return PromptCollator(int(self.tokenizer.pad_token_id or 0))

    def record(self) -> dict[str, Any]:
        """A hash of the pairs, the lengths and the template."""
        template = self.tokenizer.chat_template if self.template is None else self.template
        return {"data": digest(self.pairs), **self.lengths.to_dict(), "template": template}

    def save(self, folder: Path) -> None:
        """Save the tokenizer."""
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class PromptCollator:
    """Pads rows of a `PromptCorpus`: `input_ids`, `attention_mask` and `labels`, int64 `[B, T]`."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        inputs = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad_right(inputs, self.pad_token_id),
            "attention_mask": pad_right([[1] * len(row) for row in inputs], 0),
            "labels": pad_right([row["labels"] for row in rows], IGNORED_LABEL),
        }


@dataclass(frozen=True)
class TextCorpus(Examples):
    """Plain texts in blocks of one length, several texts to a block, each read by itself.

    Positions count from the first token of a text, and there is no attention mask: transformers' masks then
    hide one text from the next, if the model is called with `use_cache=False`. A text that does not fit into
    the rest of a block goes on in the next block, as a text of its own.

    Attributes:
        texts: the documents.
        tokenizer: of the model.
        block: tokens of a block.
    """

    texts: Sequence[str]
    tokenizer: PreTrainedTokenizerBase
    block: int

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise DataError("texts are one string: expected a list of texts")
        if self.block < 2:
            raise DataError(f"blocks of {self.block} tokens: expected at least 2, of which one is predicted")

    def __len__(self) -> int:
        return len(self.dataset())

    def dataset(self) -> RowDataset:
        """Rows of `input_ids`, `position_ids` and `labels`, `block` long; the last is filled with padding.

        Raises:
            DataError: no text has two tokens.
        """
        rows = list(blocks(self._documents(), self.block, int(self.tokenizer.pad_token_id or 0)))
        if not any(label != IGNORED_LABEL for row in rows for label in row["labels"]):
            raise DataError(
                f"{len(self.texts)} texts without one of two tokens: nothing is predicted; give longer texts"
            )
        return RowDataset(rows, [self.block] * len(rows))

    def collator(self) -> Collator:
        """Puts blocks together; all have the same length."""
        return stack_rows

    def record(self) -> dict[str, Any]:
        """A hash of the texts, and the length of a block."""
        found = hashlib.sha256("\0".join(self.texts).encode()).hexdigest()[:16]
        return {"data": f"{len(self.texts)} texts, sha256 {found}", "block": self.block}

    def save(self, folder: Path) -> None:
        """Save the tokenizer."""
        self.tokenizer.save_pretrained(folder)

    def _documents(self) -> Iterator[list[int]]:
        end = self.tokenizer.eos_token_id
        for text in self.texts:
            ids = list(self.tokenizer(text)["input_ids"])
            yield ids if end is None or (ids and ids[-1] == end) else [*ids, end]


def blocks(documents: Iterator[list[int]], size: int, pad: int) -> Iterator[Row]:
    """Cut a stream of documents into blocks.

    Args:
        documents: token ids.
        size: tokens of a block.
        pad: fills the last block.

    Yields:
        Rows of `input_ids`, `position_ids` that start from 0 with each document, and `labels`. The first
        token of a document has no label: nothing before it predicts it.

    >>> list(blocks(iter([[5, 6, 7], [8, 9]]), 4, 0))[0]
    {'input_ids': [5, 6, 7, 8], 'position_ids': [0, 1, 2, 0], 'labels': [-100, 6, 7, -100]}
    """
    row: Row = {"input_ids": [], "position_ids": [], "labels": []}
    for document in documents:
        while document:
            part, document = _split(document, size - len(row["input_ids"]))
            _append(row, part, part[1:])
            if len(row["input_ids"]) == size:
                yield row
                row = {"input_ids": [], "position_ids": [], "labels": []}
    if missing := (size - len(row["input_ids"])) % size:
        for _ in range(missing):  # texts of one token: a longer one might exceed the model's positions
            _append(row, [pad], [])
        yield row


def _split(document: list[int], room: int) -> tuple[list[int], list[int]]:
    return document[:room], document[room:]


def _append(row: Row, ids: list[int], predicted: list[int]) -> None:
    row["input_ids"] += ids
    row["position_ids"] += range(len(ids))
    row["labels"] += [IGNORED_LABEL, *predicted]


def stack_rows(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Make a batch of rows of one length: int64 `[B, T]` for each of their lists."""
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
