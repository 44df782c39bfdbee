"""What kind of checkpoint a path is; needs neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path

_SUFFIX, _MAGIC = ".gguf", b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its name or its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == _SUFFIX or file.read(len(_MAGIC)) == _MAGIC
