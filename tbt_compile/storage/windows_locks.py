"""Locks on folders under Windows: objects of the kernel, named after the folder, that end with a process.

A file in the folder would not do as a lock: a folder with an open file can neither be renamed nor replaced.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_OWNED = (0, 0x80)  # WAIT_OBJECT_0, and WAIT_ABANDONED, after a process that ended without releasing it
_SYNCHRONIZE = 0x0010_0000
_NOT_FOUND = 2  # ERROR_FILE_NOT_FOUND


@contextmanager
def locked(folder: Path, patience: float) -> Iterator[None]:
    """Lock a folder for the block, against all threads of all users; unlocked after `patience` seconds."""
    kernel = _kernel()
    mutex = kernel.CreateMutexW(None, False, _name("lock", folder))
    owned = mutex and kernel.WaitForSingleObject(mutex, int(patience * 1000)) in _OWNED
    try:
        yield
    finally:
        if owned:
            kernel.ReleaseMutex(mutex)
        if mutex:
            kernel.CloseHandle(mutex)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder while it is written; see `is_abandoned`."""
    kernel = _kernel()
    event = kernel.CreateEventW(None, True, False, _name("held", folder))
    try:
        yield
    finally:
        if event:
            kernel.CloseHandle(event)


def is_abandoned(folder: Path) -> bool:
    """Whether the process that held a folder is gone; False if that cannot be known."""
    kernel = _kernel()
    event = kernel.OpenEventW(_SYNCHRONIZE, False, _name("held", folder))
    if not event:
        return bool(kernel.GetLastError() == _NOT_FOUND)
    kernel.CloseHandle(event)
    return False


def _name(purpose: str, folder: Path) -> str:
    place = os.path.normcase(os.path.realpath(folder))
    return f"Global\\tbt-compile-{purpose}-{hashlib.sha256(place.encode()).hexdigest()}"


@cache
def _kernel() -> Any:
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    word, handle, text = ctypes.c_uint32, ctypes.c_void_p, ctypes.c_wchar_p
    kernel.CreateMutexW.argtypes = (handle, ctypes.c_int, text)
    kernel.CreateEventW.argtypes = (handle, ctypes.c_int, ctypes.c_int, text)
    kernel.OpenEventW.argtypes = (word, ctypes.c_int, text)
    for create in (kernel.CreateMutexW, kernel.CreateEventW, kernel.OpenEventW):
        create.restype = handle
    kernel.WaitForSingleObject.argtypes = (handle, word)
    kernel.WaitForSingleObject.restype = word
    for use in (kernel.ReleaseMutex, kernel.CloseHandle):
        use.argtypes = (handle,)
    kernel.GetLastError = ctypes.get_last_error  # type: ignore[attr-defined]
    return kernel
