"""Text pairs, read from JSON lines or from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbt_compile.data.records import (
    Reader,
    Record,
    load_splits,
    read_hub,
    read_lines,
    read_splits,
    text_at,
)
from tbt_compile.storage.atomic_write import atomic_write


@dataclass(frozen=True)
class TextPair:
    """A source text and its target text."""

    source: str
    target: str


@dataclass(frozen=True)
class TextData:
    """The splits of a data set; `validation` and `test` may be empty, `train` may not."""

    train: tuple[TextPair, ...]
    validation: tuple[TextPair, ...] = ()
    test: tuple[TextPair, ...] = ()

    def texts(self) -> Iterable[str]:
        """Every training text, sources and targets, for training a tokenizer."""
        for pair in self.train:
            yield pair.source
            yield pair.target


def digest(pairs: Sequence[TextPair]) -> str:
    """The number of pairs and a hash of their texts in order; it identifies a data set in records.

    >>> digest([TextPair("a", "b")])
    '1 pairs, sha256 8fb20ef63ced4145'
    """
    found = hashlib.sha256()
    for pair in pairs:
        found.update(f"{pair.source}\0{pair.target}\0".encode())
    return f"{len(pairs)} pairs, sha256 {found.hexdigest()[:16]}"


def pair_reader(source_field: str = "source", target_field: str = "target") -> Reader[TextPair]:
    """A reader of records with two texts; fields may be paths such as "translation.de"."""

    def parse(record: Record, where: str) -> TextPair:
        return TextPair(*(text_at(record, name, where) for name in (source_field, target_field)))

    return Reader(parse, (source_field, target_field))


def read_pairs(
    path: str | Path, source_field: str = "source", target_field: str = "target"
) -> list[TextPair]:
    """Read a JSON-lines file with one pair per line; blank lines are skipped.

    Args:
        path: the file, in UTF-8.
        source_field, target_field: fields of the texts, or paths of fields such as "translation.de".

    Raises:
        DataError: the file is missing, empty or malformed; the message names the line.
    """
    return read_lines(path, pair_reader(source_field, target_field))


def write_pairs(path: str | Path, pairs: Iterable[TextPair]) -> None:
    """Write pairs as JSON lines, the format of `read_pairs`."""
    lines = (json.dumps({"source": pair.source, "target": pair.target}, ensure_ascii=False) for pair in pairs)
    with atomic_write(path) as draft:
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def load_folder(folder: str | Path, source_field: str = "source", target_field: str = "target") -> TextData:
    """Read train.jsonl and, if they exist, validation.jsonl and test.jsonl from a folder.

    Args:
        folder: of the files.
        source_field, target_field: as for `read_pairs`.

    Raises:
        DataError: there is no train.jsonl, or a file is empty or malformed.
    """
    return TextData(**read_splits(folder, pair_reader(source_field, target_field)))


def load_hub(
    name: str, config: str | None = None, source_field: str = "source", target_field: str = "target"
) -> TextData:
    """Load a data set by its name on the hub, or from the local cache, with the `datasets` library.

    Args:
        name: on the hub.
        config: configuration of the data set; None: its default.
        source_field, target_field: columns, or paths such as "translation.en".

    Raises:
        DataError: the data set cannot be loaded (for instance without a network), or a field is missing.
    """
    return TextData(**read_hub(name, config, pair_reader(source_field, target_field)))


def load_data(where: str | Path, source_field: str = "source", target_field: str = "target") -> TextData:
    """Load a folder of JSON lines, or a data set by name.

    Args:
        where: a folder with train.jsonl, or "name" or "name:config" on the hub.
        source_field, target_field: as for `read_pairs`.

    Raises:
        DataError: see `load_folder` and `load_hub`.
    """
    return TextData(**load_splits(where, pair_reader(source_field, target_field)))
