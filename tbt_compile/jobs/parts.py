"""A job in parts: which are written, and how the output is made of them.

Beside the output stands a folder of the same name with `.parts`: job.json says of what the parts are, and
each finished part is a file of its own, moved into its place when it is whole. When all are there the output
is written, in the order of the texts, and the folder is removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbt_compile.errors import DataError, FormatError
from tbt_compile.storage.atomic_write import atomic_write, save_json
from tbt_compile.storage.os_errors import writing

Part = tuple[int, list[str]]
"""A part's number, and its texts or outputs."""


@dataclass(frozen=True)
class Job:
    """Texts, and the file that gets an output for each.

    Attributes:
        texts: one per line of the output.
        output: the file.
        settings: all that outputs depend on besides the texts, JSON-ready.
        part_size: texts per part.
    """

    texts: Sequence[str]
    output: Path
    settings: Mapping[str, Any]
    part_size: int = 256

    def __post_init__(self) -> None:
        if not self.texts:
            raise DataError("there is no text: expected at least one line")
        if self.part_size < 1:
            raise DataError(f"parts of {self.part_size} texts: expected at least one")

    @property
    def folder(self) -> Path:
        """Of the parts."""
        return self.output.with_name(f"{self.output.name}.parts")

    def open(self) -> None:
        """Make the folder of parts, or go on with that of an earlier run.

        Raises:
            FormatError: the folder holds parts of another job.
            WriteError: the system refuses.
        """
        digest = hashlib.sha256("\n".join(self.texts).encode()).hexdigest()
        asked = {"texts": len(self.texts), "sha256": digest, "part_size": self.part_size, **self.settings}
        asked, path = json.loads(json.dumps(asked)), self.folder / "job.json"
        if path.is_file():
            known = _read(path)
            for name in sorted({*asked, *known}):
                if asked.get(name) != known.get(name):
                    raise FormatError(
                        f"{self.folder} holds parts of a job with {name} {known.get(name)!r}, not "
                        f"{asked.get(name)!r}: remove it, or name another output"
                    )
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        save_json(path, asked)

    def missing(self) -> list[Part]:
        """The parts that are not written yet, with their texts."""
        return [
            (number, self._texts(number)) for number in self._numbers() if not self._path(number).is_file()
        ]

    def write(self, part: Part) -> None:
        """Write a part whole.

        Raises:
            FormatError: it has not one output per text.
            WriteError: the system refuses.
        """
        number, outputs = part
        if len(outputs) != len(self._texts(number)):
            raise FormatError(
                f"part {number} has {len(outputs)} outputs for {len(self._texts(number))} texts"
            )
        save_json(self._path(number), outputs)

    def finish(self) -> None:
        """Write the output, a line per text, and remove the parts.

        Raises:
            FormatError: a part is missing or damaged.
            WriteError: the system refuses.
        """
        with atomic_write(self.output) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self._lines())
        shutil.rmtree(self.folder)

    def _lines(self) -> Iterator[str]:
        for number in self._numbers():
            outputs = _read(self._path(number))
            if len(outputs) != len(self._texts(number)):
                raise FormatError(f"{self._path(number)} is damaged: remove it, and run the job again")
            yield from (" ".join(output.split("\n")) for output in outputs)

    def _numbers(self) -> range:
        return range(-(-len(self.texts) // self.part_size))

    def _texts(self, number: int) -> list[str]:
        return list(self.texts[number * self.part_size : (number + 1) * self.part_size])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"


def read_texts(path: Path) -> list[str]:
    """The lines of a file in UTF-8.

    Raises:
        DataError: the file is not there, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}: convert it first") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): expected a file of texts") from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read ({error}): remove it, and run the job again") from error


def run(job: Job, outputs: Iterable[Part]) -> Iterator[int]:
    """Write parts as they come, and then the output.

    Args:
        job: was opened.
        outputs: of the missing parts, in any order.

    Yields:
        The number of texts that are done, after each part.
    """
    done = len(job.texts) - sum(len(texts) for _, texts in job.missing())
    for part in outputs:
        job.write(part)
        done += len(part[1])
        yield done
    job.finish()
