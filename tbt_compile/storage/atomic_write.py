"""Atomic file writes: readers see the old file or the new one, never a partial one."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tbt_compile.storage.os_errors import require_makeable, writing


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a draft in the folder of `path` to write to; renames it to `path` when the block ends.

    If the block fails, the old file stays and the draft is removed; only a process that is killed leaves its
    draft, a hidden file that ends in `.part`. Of two processes or threads that write the same file, the last
    to finish wins. The permissions of an existing file are kept. Symbolic links are followed. Devices are
    written directly.

    Raises:
        WriteError: the system refuses: no space, no permission, a bad path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "scores.json") as draft:
    ...         _ = draft.write_text("{}")
    ...     [file.name for file in Path(folder).iterdir()]
    ['scores.json']
    """
    with writing(path):
        place = Path(os.path.realpath(path))
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
        if place.exists() and not place.is_file():
            yield place
            return
        draft = place.with_name(f".{place.name[:32]}.{secrets.token_hex(8)}.part")
        try:
            yield draft
            if place.exists():
                shutil.copymode(place, draft)
            draft.replace(place)
        finally:
            with suppress(OSError):
                draft.unlink()


def require_writable(path: str | Path) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold.

    Its folder may not exist yet, if it can be made.

    Raises:
        WriteError: it is a folder, or the system refuses.
    """
    with writing(path):
        place = Path(os.path.realpath(path))
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
        if place.is_file() or not place.exists():  # no device
            require_makeable(place.parent)


def make_parents(path: Path) -> None:
    """Make the folder that a file is to lie in, and its parents.

    Raises:
        WriteError: the system refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def save_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
