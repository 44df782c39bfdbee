"""Text pairs, read from JSON lines or from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbt_compile.errors import DataError
from tbt_compile.storage.atomic_write import atomic_write

SPLITS = ("train", "validation", "test")


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
    """The text at a field or path of fields."""
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                f"{where}: field {name!r} is missing (fields there: {', '.join(map(str, record)) or 'none'})"
            )
        value = value[part]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {name!r} must be a non-empty text, got {value!r}")
    return value


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
    """Load a data set by its name on the hub, or from the local cache, with the `datasets` library.

    Args:
        name: on the hub.
        config: configuration of the data set; None: its default.
        source_field, target_field: columns, or paths such as "translation.en".

    Raises:
        DataError: the data set cannot be loaded (for instance without a network), or a field is missing.
    """
    import datasets

    try:
        splits = datasets.load_dataset(name, config)
    except Exception as error:  # the library raises many unrelated types for one cause
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"data set {name!r} could not be fetched ({reason}). Without a network, only cached data sets "
            "can be loaded by name: check the name, or give a folder with train.jsonl instead"
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
    """Load a folder of JSON lines, or a data set by name.

    Args:
        where: a folder with train.jsonl, or "name" or "name:config" on the hub.
        source_field, target_field: as for `read_pairs`.

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
