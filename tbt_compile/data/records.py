"""Records of a data set, read from JSON lines or from the Hugging Face hub, whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from tbt_compile.errors import DataError, did_you_mean

T = TypeVar("T")
SPLITS = ("train", "validation", "test")
Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Reader(Generic[T]):
    """Turns records into examples.

    Attributes:
        parse: makes an example of a record; its second argument says where the record stands.
        fields: the fields that a record needs, for messages.
    """

    parse: Callable[[Record, str], T]
    fields: Sequence[str]

    def __call__(self, record: Any, where: str) -> T:
        """Make an example.

        Raises:
            DataError: the record is no object, or a field is missing or of the wrong kind.
        """
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: expected an object with {self.expected}, got {type(record).__name__}")
        return self.parse(record, where)

    @property
    def expected(self) -> str:
        """The fields, in words.

        >>> Reader(dict, ("source", "target")).expected
        "fields 'source' and 'target'"
        """
        names = [repr(field) for field in self.fields]
        return f"field{'s' if len(names) > 1 else ''} {' and '.join(names)}"


def text_at(record: Record, name: str, where: str) -> str:
    """The text at a field, or at a path of fields such as "translation.de".

    Args:
        record: of a data set.
        name: of the field.
        where: the place of the record, for messages.

    Raises:
        DataError: the field is missing, or holds no text, or one that cannot be written as UTF-8.
    """
    value = value_at(record, name, where)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {name!r} must be a non-empty text, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: field {name!r} has half of a surrogate pair at character {error.start}, which no text "
            "has: repair what wrote it"
        ) from error
    return value


def value_at(record: Record, name: str, where: str) -> Any:
    """The value at a field, or at a path of fields.

    Args:
        record, name, where: as for `text_at`.

    Raises:
        DataError: the field is missing.
    """
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                f"{where}: field {name!r} is missing (fields there: {', '.join(map(str, record)) or 'none'})"
            )
        value = value[part]
    return value


def read_lines(path: str | Path, reader: Reader[T]) -> list[T]:
    """Read a JSON-lines file with one record per line; blank lines are skipped.

    Args:
        path: the file, in UTF-8.
        reader: of the records.

    Raises:
        DataError: the file is missing, empty or malformed; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"data file {path} does not exist: expected JSON lines with {reader.expected}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"data file {path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it to UTF-8"
        ) from error
    found = [
        reader(_parse(line, f"{path}, line {number}"), f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise DataError(f"data file {path} is empty: expected at least one line of JSON")
    return found


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; too many brackets
        raise DataError(f"{where}: not valid JSON ({error})") from error


def read_splits(folder: str | Path, reader: Reader[T]) -> dict[str, tuple[T, ...]]:
    """Read train.jsonl and, if they exist, validation.jsonl and test.jsonl from a folder.

    Args:
        folder: of the files.
        reader: of the records.

    Returns:
        The splits that exist, by name.

    Raises:
        DataError: there is no train.jsonl, or a file is empty or malformed.
    """
    folder = Path(folder)
    if not (folder / "train.jsonl").is_file():
        raise DataError(
            f"data folder {folder} holds no train.jsonl: expected JSON lines with {reader.expected}"
        )
    files = {split: folder / f"{split}.jsonl" for split in SPLITS}
    return {split: tuple(read_lines(file, reader)) for split, file in files.items() if file.is_file()}


def read_hub(name: str, config: str | None, reader: Reader[T]) -> dict[str, tuple[T, ...]]:
    """Load a data set by its name on the hub, or from the local cache, with the `datasets` library.

    Args:
        name: on the hub.
        config: configuration of the data set; None: its default.
        reader: of the records.

    Returns:
        The splits that exist, by name.

    Raises:
        DataError: the data set cannot be loaded (for instance without a network), or a field is missing.
    """
    import datasets

    try:
        splits: Mapping[str, Iterable[Any]] = datasets.load_dataset(name, config)
    except Exception as error:  # the library raises many unrelated types for one cause
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"data set {name!r} could not be fetched ({reason}). Without a network, only cached data sets "
            "can be loaded by name: check the name, or give a folder with train.jsonl instead"
        ) from error
    if "train" not in splits:
        raise DataError(f"data set {name!r} has no split 'train' (it has {', '.join(splits)})")
    return {
        split: tuple(
            reader(record, f"data set {name!r}, {split}, row {row}")
            for row, record in enumerate(splits[split])
        )
        for split in SPLITS
        if split in splits
    }


def load_splits(where: str | Path, reader: Reader[T]) -> dict[str, tuple[T, ...]]:
    """Load a folder of JSON lines, or a data set by name.

    Args:
        where: a folder with train.jsonl, or "name" or "name:config" on the hub.
        reader: of the records.

    Raises:
        DataError: see `read_splits` and `read_hub`.
    """
    if Path(where).is_dir():
        return read_splits(where, reader)
    text = str(where)
    if isinstance(where, Path) or text.startswith((".", "/", "~")):
        raise DataError(f"data folder {where} does not exist: expected a folder with train.jsonl")
    name, _, config = text.partition(":")
    return read_hub(name, config or None, reader)


def load_split(where: str | Path, split: str, reader: Reader[T]) -> Sequence[T]:
    """Load one split: of a folder of JSON lines, which needs no other, or of a data set by name.

    Args:
        where: as for `load_splits`; or a .jsonl file, which is the split.
        split: a name in `SPLITS`; unused with a file.
        reader: of the records.

    Raises:
        DataError: there is no such split, or it cannot be read.
    """
    if str(where).endswith(".jsonl"):
        return read_lines(where, reader)
    if split not in SPLITS:
        raise DataError(
            f"unknown split {split!r}; known are {', '.join(SPLITS)}.{did_you_mean(split, SPLITS)}"
        )
    if Path(where).is_dir():
        path = Path(where) / f"{split}.jsonl"
        found: Sequence[T] = read_lines(path, reader) if path.is_file() else ()
    else:
        found = load_splits(where, reader).get(split, ())
    if not found:
        raise DataError(f"{where} has no {split} split; choose another with --split")
    return found
