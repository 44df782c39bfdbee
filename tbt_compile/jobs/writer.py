"""`TextWriter`: one worker of a job, with the model of a compiled folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tbt_compile.errors import DataError
from tbt_compile.jobs.parts import Part
from tbt_compile.serving.tokenizing import read_tokenizer, whole_tokenizer
from tbt_compile.storage.checksums import ALL, Checks

_SEED_BITS = 64


class TextWriter:
    """Writes an output for each text; blank texts have blank outputs.

    Args:
        folder: compiled, with its tokenizer; its weights are mapped, and shared by the workers of a machine.
        options: of `generate_many`.
        checks: of the folder.

    Raises:
        FormatError: the folder cannot be read.
        TargetError: the model was compiled for another CPU.
    """

    def __init__(self, folder: str | Path, options: dict[str, Any], checks: Checks = ALL) -> None:
        import tbt_compile

        self._folder, self._options = Path(folder), options
        self._tokenizer = read_tokenizer(self._folder)
        self._model: Any = tbt_compile.load(
            folder,
            num_threads=options.get("num_threads"),
            check=checks.contents,
            public_key=checks.public_key,
        )

    def write(self, part: Part) -> Part:
        """The outputs of a part. Samples of different parts have different random numbers.

        Raises:
            DataError: a text has no token.
            GenerationError: a text does not fit the model.
        """
        number, texts = part
        options = dict(self._options)
        if options.get("seed") is not None:
            options["seed"] += number << _SEED_BITS
        given = [text for text in texts if text.strip()]
        with whole_tokenizer(self._folder):
            sources = [self._tokenizer.encode(text).ids for text in given]
        for text, source in zip(given, sources, strict=True):
            if not source:
                raise DataError(f"the text {text!r} has no token: expected at least one")
        rows = self._model.generate_many(sources, **options) if sources else []
        written = iter([self._tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in rows])
        return number, [next(written) if text.strip() else "" for text in texts]


def on_this_machine(
    folder: Path, options: dict[str, Any], parts: Iterable[Part], checks: Checks = ALL
) -> Iterator[Part]:
    """Write parts one after the other in this process.

    Args:
        folder, options, checks: as for `TextWriter`; `num_workers` batches are written at a time.
        parts: the texts.
    """
    writer = TextWriter(folder, options, checks)
    yield from map(writer.write, parts)
