"""Putting a folder at a path in one step, by the system's exchange of two names where it has one.

Linux has `renameat2(RENAME_EXCHANGE)`, macOS `renamex_np(RENAME_SWAP)`. Elsewhere, and on file systems
without them, the old folder is renamed away and the new one to its place.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_AT_CWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS


def put_in_place(draft: Path, path: Path) -> None:
    """Rename a folder to `path`; what was there is then at `draft`, unless it was nothing or an empty folder.

    Args:
        draft: the folder, on the file system of `path`.
        path: without symbolic links.

    Raises:
        OSError: the system refuses; both are as they were.
    """
    try:
        os.replace(draft, path)  # replaces nothing but an empty folder
    except OSError:
        if not os.path.lexists(path):
            raise
        if not exchange(draft, path):
            _rename_twice(draft, path)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; returns False where that is not supported.

    Raises:
        OSError: the system refuses.
    """
    function = _system_exchange()
    if function is None:
        return False
    if function(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))


@cache
def _system_exchange() -> Callable[[bytes, bytes], int] | None:
    if sys.platform not in ("linux", "darwin"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        swap = getattr(library, "renamex_np", None)
        return None if swap is None else lambda one, other: int(swap(one, other, _EXCHANGE))
    rename = getattr(library, "renameat2", None)  # glibc 2.28
    if rename is None:
        return None
    return lambda one, other: int(rename(_AT_CWD, one, _AT_CWD, other, _EXCHANGE))


def _rename_twice(draft: Path, path: Path) -> None:
    aside = draft.with_name(f"{draft.name}.old")
    os.replace(path, aside)
    try:
        os.replace(draft, path)
    except BaseException:
        os.replace(aside, path)
        raise
    os.replace(aside, draft)
