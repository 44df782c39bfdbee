"""Atomic file writes: readers see the old file or the new one, never a partial one."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a draft in the folder of `path` to write to; renames it to `path` when the block ends.

    If the block fails, the old file stays and the draft is removed. Of two processes or threads that write
    the same file, the last to finish wins. The permissions of an existing file are
    kept. Symbolic links are followed. Devices are written directly.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "scores.json") as draft:
    ...         _ = draft.write_text("{}")
    ...     [file.name for file in Path(folder).iterdir()]
    ['scores.json']
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield draft
        if path.exists():
            shutil.copymode(path, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def save_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
