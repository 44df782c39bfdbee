"""A teacher's distributions on disk: computed when an example is first seen, read in every later epoch.

A folder holds cache.json, which says of what; index.npy, which says where each example is; and a file of
distributions per process, to which they are appended. An example gets its place in the index last, so that a
run that is killed leaves a cache that can be used.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tbt_compile.data.examples import Collator, Row
from tbt_compile.storage.atomic_write import save_json
from tbt_compile.storage.os_errors import writing
from tbt_compile.training import processes
from tbt_compile.training.likeliest import Likeliest
from tbt_compile.training.settings import TrainingError

NUMBERS = "tbt_examples"
"""Name in a batch: the number of each example and a checksum of it, int64 `[B, 2]`."""
_FILE, _OFFSET, _COUNT, _EXAMPLE, _CONTENT = range(5)  # columns of the index; a file of 0 says: not there
_SMALL = 2**16


class TeacherCache:
    """Distributions of one teacher on one data set, by the number of the example.

    Attributes:
        folder: of the files.
        k: tokens that are kept of each distribution.
    """

    def __init__(self, folder: str | Path, k: int = 64) -> None:
        if k < 1:
            raise TrainingError(f"a cache of the {k} most likely tokens: expected at least one")
        self.folder, self.k = Path(folder), k

    def open(self, asked: dict[str, Any], vocabulary: int, examples: int) -> None:
        """Make the files, or open those of an earlier run.

        Args:
            asked: all that the distributions depend on, JSON-ready.
            vocabulary: of the teacher.
            examples: in the data set.

        Raises:
            TrainingError: the folder holds distributions of something else, or is damaged.
            WriteError: the system refuses.
        """
        self.k = min(self.k, vocabulary)
        self._type = np.dtype(np.uint16 if vocabulary <= _SMALL else np.int32)
        asked = json.loads(json.dumps({**asked, "k": self.k, "vocabulary": vocabulary, "examples": examples}))
        path = self.folder / "cache.json"
        with processes.first():
            if path.is_file():
                known = self._described(path)
                for name in sorted({*asked, *known}):
                    if asked.get(name) != known.get(name):
                        raise TrainingError(
                            f"folder {self.folder} holds a teacher's distributions with "
                            f"{name}={known.get(name)!r}, not {asked.get(name)!r}: remove it, or use another"
                        )
            elif processes.is_first():
                with writing(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    np.save(self.folder / "index.npy", np.zeros((examples, 5), np.int64))
                save_json(path, asked)
        try:
            self._index = np.load(self.folder / "index.npy", mmap_mode="r+")
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(self.folder / "index.npy", error) from error
        if self._index.shape != (examples, 5) or self._index.dtype != np.int64:
            raise self._damaged(self.folder / "index.npy", f"an array {self._index.shape}")

    def of(self, numbers: Tensor, counts: Tensor, compute: Callable[[], Likeliest]) -> Likeliest:
        """The distributions of a batch: of each example as they were computed first.

        Args:
            numbers: int64 `[B, 2]`, see `NUMBERS`.
            counts: int64 `[B]`, predictions of each example.
            compute: computes the N = sum(counts) distributions of the batch, example after example; called
                if one of them is not there.

        Raises:
            TrainingError: an example is another one than that of this number in the cache.
            WriteError: the system refuses.
        """
        examples = numbers.tolist()
        rows = [self._read(number, check) for number, check in examples]
        if any(row is None for row in rows):
            computed = zip(*(part.cpu().split(counts.tolist()) for part in compute()), strict=True)
            new = {place: Likeliest(*found) for place, found in enumerate(computed) if rows[place] is None}
            self._write([(*examples[place], found) for place, found in new.items()])
            rows = [new.get(place, row) for place, row in enumerate(rows)]
        return Likeliest(*(torch.cat(parts).to(numbers.device) for parts in zip(*rows, strict=True)))

    def figures(self) -> dict[str, Any]:
        """What the cache costs: bytes per prediction and in all, and the mean probability of the rest."""
        there = self._index[self._index[:, _FILE] > 0]
        sample = [self._load(row) for row in there[:: max(1, len(there) // 1000)]]
        rest = [found.rest for found in sample if found is not None]
        return {
            "k": self.k,
            "examples": len(there),
            "bytes_per_prediction": self._width(),
            "bytes": int(there[:, _COUNT].sum()) * self._width(),
            "rest": torch.cat(rest).mean().item() if rest else 0.0,
        }

    def _described(self, path: Path) -> dict[str, Any]:
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(path, error) from error
        if not isinstance(known, dict):
            raise self._damaged(path, f"a {type(known).__name__}")
        return known

    def _damaged(self, path: Path, why: object) -> TrainingError:
        return TrainingError(
            f"{path} is damaged ({why}): remove the folder {self.folder}, which is made again"
        )

    def _width(self) -> int:
        return self.k * (self._type.itemsize + 4) + 4

    def _path(self, file: int) -> Path:
        return self.folder / f"distributions-{file}.bin"

    def _read(self, number: int, check: int) -> Likeliest | None:
        row = self._index[number]
        if not row[_FILE]:
            return None
        if row[_EXAMPLE] != check:
            raise TrainingError(
                f"example {number} is not the one whose distributions are in {self.folder}: the data "
                "changed, so remove the folder"
            )
        return self._load(row)

    def _load(self, row: Any) -> Likeliest | None:
        """The distributions of an example; None if the file lost them."""
        count = int(row[_COUNT])
        try:
            with open(self._path(int(row[_FILE])), "rb") as file:
                file.seek(int(row[_OFFSET]))
                data = file.read(count * self._width())
        except (OSError, ValueError):
            return None
        if zlib.crc32(data) != row[_CONTENT]:
            return None
        tokens, logs = count * self.k * self._type.itemsize, count * self.k * 4
        parts = (
            np.frombuffer(data[:tokens], self._type).astype(np.int64).reshape(count, self.k),
            np.frombuffer(data[tokens : tokens + logs], np.float32).reshape(count, self.k).copy(),
            np.frombuffer(data[tokens + logs :], np.float32).copy(),
        )
        return Likeliest(*map(torch.from_numpy, parts))

    def _write(self, found: Sequence[tuple[int, int, Likeliest]]) -> None:
        """Append distributions of examples, given by number and checksum, and then tell the index."""
        places, file = [], processes.rank() + 1
        with writing(self.folder), open(self._path(file), "ab") as out:
            for number, check, (tokens, logs, rest) in found:
                arrays = (tokens.numpy().astype(self._type), logs.numpy(), rest.numpy())
                data = b"".join(array.tobytes() for array in arrays)
                places.append((number, (out.tell(), len(rest), check, zlib.crc32(data))))
                out.write(data)
        for number, place in places:
            self._index[number, 1:] = place
            self._index[number, _FILE] = file


class Numbered(Dataset[Row]):
    """A data set whose rows have their number."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return {**self.rows[index], NUMBERS: index}


class NumberedCollator:
    """Makes batches of rows with their numbers: those of another collator, and `NUMBERS`.

    Rows without numbers, those of an evaluation, make a batch without.
    """

    def __init__(self, collate: Collator) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        if NUMBERS not in rows[0]:
            return self.collate(rows)
        plain = [{name: value for name, value in row.items() if name != NUMBERS} for row in rows]
        numbers = [[row[NUMBERS], checksum(inner)] for row, inner in zip(rows, plain, strict=True)]
        return {**self.collate(plain), NUMBERS: torch.tensor(numbers)}


def checksum(row: Row) -> int:
    """A checksum of all values of an example, in any order of their names."""
    found = 0
    for name in sorted(row):
        found = zlib.crc32(np.asarray(row[name]).tobytes(), zlib.crc32(name.encode(), found))
    return found
