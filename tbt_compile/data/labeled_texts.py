"""Texts with a class each, for classifiers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tbt_compile.data.batches import pad_right
from tbt_compile.data.examples import IGNORED_LABEL, Collator, Examples, Row, RowDataset
from tbt_compile.data.records import Reader, Record, text_at, value_at
from tbt_compile.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LabeledText:
    """A text and the index of its class; None: unknown, to be learned from the teacher alone."""

    text: str
    label: int | None


def label_reader(classes: Mapping[str, int], text_field: str, label_field: str | None) -> Reader[LabeledText]:
    """A reader of records with a text and a class.

    Args:
        classes: indices by name, the model's `config.label2id`.
        text_field: field of the text.
        label_field: field of the class, a name or an index; None: there is none.
    """

    def parse(record: Record, where: str) -> LabeledText:
        text = text_at(record, text_field, where)
        if label_field is None:
            return LabeledText(text, None)
        value = value_at(record, label_field, where)
        label = classes.get(value) if isinstance(value, str) else value
        if type(label) is not int or label not in classes.values():
            known = ", ".join(classes)
            raise DataError(
                f"{where}: field {label_field!r} is {value!r}: expected one of {known}, or an index."
                + did_you_mean(str(value), classes)
            )
        return LabeledText(text, label)

    return Reader(parse, (text_field,) if label_field is None else (text_field, label_field))


@dataclass(frozen=True)
class LabeledCorpus(Examples):
    """Texts with classes, their tokenizer, and the tokens to truncate to."""

    texts: Sequence[LabeledText]
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def __len__(self) -> int:
        return len(self.texts)

    def dataset(self) -> RowDataset:
        """Rows of `input_ids`, with the tokenizer's special tokens, and `labels`, an index or -100."""
        ids = encode(self.tokenizer, [text.text for text in self.texts], self.max_length)
        rows: list[Row] = [
            {"input_ids": row, "labels": IGNORED_LABEL if text.label is None else text.label}
            for row, text in zip(ids, self.texts, strict=True)
        ]
        return RowDataset(rows, [len(row) for row in ids])

    def collator(self) -> Collator:
        """Pads on the right."""
        return LabeledCollator(int(self.tokenizer.pad_token_id or 0))

    def record(self) -> dict[str, Any]:
        """A hash of texts and classes, and the maximum length."""
        content = "\0".join(f"{text.text}\0{text.label}" for text in self.texts)
        found = hashlib.sha256(content.encode()).hexdigest()[:16]
        return {"data": f"{len(self.texts)} texts, sha256 {found}", "max_source_length": self.max_length}

    def save(self, folder: Path) -> None:
        """Save the tokenizer."""
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class LabeledCollator:
    """Pads rows of a `LabeledCorpus`: `input_ids`, `attention_mask` int64 `[B, T]`, `labels` int64 `[B]`."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        return {
            **padded([row["input_ids"] for row in rows], self.pad_token_id),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of texts, truncated.

    Args:
        tokenizer: of the model.
        texts: any number.
        max_length: in tokens, special ones included.
    """
    rows: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return rows


def padded(rows: Sequence[list[int]], pad: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, int64 `[B, T]`, of rows of token ids."""
    mask = pad_right([[1] * len(row) for row in rows], 0)
    return {"input_ids": pad_right(rows, pad), "attention_mask": mask}
