"""Errors of the operating system as one sentence: the path, what went wrong, what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tbt_compile.errors import FormatError, WriteError

_WHEN_WRITING = {
    errno.ENOSPC: "free some space, or choose a place on another disk",
    errno.EDQUOT: "free some space, or choose a place on another disk",
    errno.EFBIG: "choose a place that may hold larger files",
    errno.EROFS: "choose a place that is not read-only",
    errno.EACCES: "choose a place that you may write to, or change its permissions",
    errno.EPERM: "choose a place that you may write to, or change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "part of the path is a file, choose another place",
    errno.EEXIST: "part of the path is a file, choose another place",
    errno.ELOOP: "its symbolic links form a loop, choose another place",
}
_WHEN_READING = {
    errno.EACCES: "change its permissions, or copy it to a place that you may read",
    errno.EPERM: "change its permissions, or copy it to a place that you may read",
    errno.ENAMETOOLONG: "check the path",
    errno.ELOOP: "its symbolic links form a loop, check the path",
}


# What Windows gives for files that a program has open: ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION.
_WHEN_OPEN = (5, 32)
# What torch.save says of a file that ends too early; it does not tell why.
_FROM_TORCH = ("PytorchStreamWriter failed writing file", "inline_container.cc")
_FROM_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn every error of the system in the block into a `WriteError` that names `path`."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        hint = _WHEN_WRITING.get(cause.errno or 0, "choose another place")
        if getattr(cause, "winerror", None) in _WHEN_OPEN:
            hint = "end the programs that have it open, choose another place or change its permissions"
        failed = WriteError(f"cannot write {path}: {cause.strerror or cause}; {hint}")
        failed.errno = cause.errno
        raise failed from error


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn every `OSError` of the block into a `FormatError` that names `path`."""
    try:
        yield
    except OSError as error:
        hint = _WHEN_READING.get(error.errno or 0, "copy the whole folder again")
        raise FormatError(f"cannot read {path}: {error.strerror or error}; {hint}") from error


def require_makeable(folder: Path) -> None:
    """Refuse a folder in which no file can be made, before the work whose results are to lie there.

    Args:
        folder: may not exist; then its nearest parent that does is asked.

    Raises:
        OSError: the reason.
    """
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    os.stat(nearest)  # a loop of links says so
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))


def _system_error(error: Exception) -> OSError | None:
    """The error of the system behind an exception; safetensors, tokenizers and PyTorch have own types."""
    if isinstance(error, OSError):
        return error
    if any(sign in str(error) for sign in _FROM_TORCH):
        return OSError(errno.ENOSPC, "a file could not be written whole")
    found = _FROM_RUST.search(str(error))
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))
