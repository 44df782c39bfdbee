"""Reading several files of a folder that may be replaced meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tbt_compile.errors import FormatError
from tbt_compile.storage.locks import locked
from tbt_compile.storage.os_errors import reading

Result = TypeVar("Result")


def read_consistently(path: Path, manifest: str, read: Callable[[], Result]) -> Result:
    """Read a folder as it was at one moment; returns what `read` returns.

    A manifest holds the checksums of all files, so what was read between two equal manifests belongs
    together. If the folder was replaced meanwhile, it is read again, and its writers wait.

    Args:
        path: the folder.
        manifest: name of its manifest.
        read: reads the folder; may be called twice, and must not change anything else.

    Raises:
        FormatError: `read` raised one, or the system refuses.
    """
    with reading(path):
        before = _content(path / manifest)
        try:
            result = read()
            if _content(path / manifest) == before:
                return result
        except (FormatError, OSError):
            with locked(Path(os.path.realpath(path)), shared=True):
                if _content(path / manifest) == before:
                    raise
        with locked(Path(os.path.realpath(path)), shared=True):
            before = _content(path / manifest)
            result = read()
            if _content(path / manifest) == before:
                return result
        raise FormatError(f"{path} was replaced again and again while it was read: load it again")


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
