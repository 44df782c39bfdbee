"""Text pairs: reading them from JSON lines or from the `datasets` hub, and turning them into batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tbt_compile.errors import DataError
from tbt_compile.storage.atomic_write import atomic_write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")
IGNORED_LABEL = -100
"""Label of padding: the value that torch's and transformers' losses skip."""


@dataclass(frozen=True)
class TextPair:
    """A text and the text that is to be written for it."""

    source: str
    target: str


@dataclass(frozen=True)
class TextData:
    """The splits of a data set. `validation` and `test` may be empty, `train` may not."""

    train: tuple[TextPair, ...]
    validation: tuple[TextPair, ...] = ()
    test: tuple[TextPair, ...] = ()

    def texts(self) -> Iterable[str]:
        """Every training text, sources and targets, e.g. to train a tokenizer on."""
        for pair in self.train:
            yield pair.source
            yield pair.target


def digest(pairs: Sequence[TextPair]) -> str:
    """How many pairs, and a hash of their texts in their order: tells one data set from another.

    >>> digest([TextPair("a", "b")])
    '1 pairs, sha256 8fb20ef63ced4145'
    """
    found = hashlib.sha256()
    for pair in pairs:
        found.update(f"{pair.source}\0{pair.target}\0".encode())
    return f"{len(pairs)} pairs, sha256 {found.hexdigest()[:16]}"


def read_pairs(
    path: str | Path, source_field: str = "source", target_field: str = "target"
) -> list[TextPair]:
    """Read a JSON-lines file, one object with two texts per line; blank lines are passed over.

    Raises:
        DataError: naming the file, the line, and what is missing or wrong there.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"data file {path} does not exist: expected JSON lines with {source_field!r} and {target_field!r}"
        )
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"data file {path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it to UTF-8"
        ) from error
    pairs = [
        _parse_line(line, f"{path}, line {number}", source_field, target_field)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not pairs:
        raise DataError(f"data file {path} is empty: expected at least one line of JSON")
    return pairs


def _parse_line(line: str, where: str, source_field: str, target_field: str) -> TextPair:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from error
    return _pair(record, where, source_field, target_field)


def _pair(record: Any, where: str, source_field: str, target_field: str) -> TextPair:
    if not isinstance(record, Mapping):
        raise DataError(
            f"{where}: expected an object with fields {source_field!r} and {target_field!r}, got "
            f"{type(record).__name__}"
        )
    return TextPair(*(_text(record, name, where) for name in (source_field, target_field)))


def _text(record: Mapping[str, Any], name: str, where: str) -> str:
    """The text at a field, or at a path of fields such as "translation.de"."""
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                f"{where}: field {name!r} is missing (fields there: {', '.join(map(str, record)) or 'none'})"
            )
        value = value[part]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {name!r} must be a text that is not empty, got {value!r}")
    return value


def write_pairs(path: str | Path, pairs: Iterable[TextPair]) -> None:
    """Write JSON lines that `read_pairs` reads back."""
    lines = (json.dumps({"source": pair.source, "target": pair.target}, ensure_ascii=False) for pair in pairs)
    with atomic_write(path) as draft:
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def load_folder(folder: str | Path, source_field: str = "source", target_field: str = "target") -> TextData:
    """Read train.jsonl and, where they exist, validation.jsonl and test.jsonl of a folder.

    Raises:
        DataError: there is no train.jsonl, or a file is faulty.
    """
    folder = Path(folder)
    if not (folder / "train.jsonl").is_file():
        raise DataError(
            f"data folder {folder} holds no train.jsonl: expected JSON lines with {source_field!r} and "
            f"{target_field!r}"
        )
    files = {split: folder / f"{split}.jsonl" for split in SPLITS}
    return TextData(
        **{
            split: tuple(read_pairs(file, source_field, target_field))
            for split, file in files.items()
            if file.is_file()
        }
    )


def load_hub(
    name: str, config: str | None = None, source_field: str = "source", target_field: str = "target"
) -> TextData:
    """Fetch a data set by its name on the hub (or in the local cache) with the `datasets` library.

    Args:
        source_field, target_field: columns, or paths such as "translation.en".

    Raises:
        DataError: the data set cannot be fetched (for instance without a network), or a field is missing.
    """
    import datasets

    try:
        splits = datasets.load_dataset(name, config)
    except Exception as error:  # the library raises many unrelated types for one cause
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"data set {name!r} could not be fetched ({reason}). Without a network, only data sets that "
            "are in the "
            f"local cache can be had by name: check the name, or give a folder with train.jsonl instead"
        ) from error
    if "train" not in splits:
        raise DataError(f"data set {name!r} has no split 'train' (it has {', '.join(splits)})")
    return TextData(
        **{
            split: tuple(
                _pair(record, f"data set {name!r}, {split}, row {row}", source_field, target_field)
                for row, record in enumerate(splits[split])
            )
            for split in SPLITS
            if split in splits
        }
    )


def load_data(where: str | Path, source_field: str = "source", target_field: str = "target") -> TextData:
    """Load a folder of JSON lines, or a data set by name: "name" or "name:config".

    Raises:
        DataError: see `load_folder` and `load_hub`.
    """
    if Path(where).is_dir():
        return load_folder(where, source_field, target_field)
    text = str(where)
    if isinstance(where, Path) or text.startswith((".", "/", "~")):
        raise DataError(f"data folder {where} does not exist: expected a folder with train.jsonl")
    name, _, config = text.partition(":")
    return load_hub(name, config or None, source_field, target_field)


class PairDataset(Dataset[dict[str, list[int]]]):
    """Text pairs as token ids, cut to the given lengths: `input_ids` and `labels`, both ending with
    end-of-text.
    """

    def __init__(
        self,
        pairs: Sequence[TextPair],
        tokenizer: PreTrainedTokenizerBase,
        max_source_length: int,
        max_target_length: int,
    ) -> None:
        sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
        cut = {"truncation": True}
        self.inputs = tokenizer(sources, max_length=max_source_length, **cut)["input_ids"]
        # A multilingual tokenizer marks targets with their own language.
        self.labels = tokenizer(text_target=targets, max_length=max_target_length, **cut)["input_ids"]

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
    """Joins rows of a `PairDataset` to a padded batch: input_ids, attention_mask and labels, each int64 [B,
    T].
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        inputs = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad_right(inputs, self.pad_token_id),
            "attention_mask": pad_right([[1] * len(row) for row in inputs], 0),
            "labels": pad_right([row["labels"] for row in rows], IGNORED_LABEL),
        }
