"""Locks on folders, held through `flock` on the folder itself: no lock file is left anywhere.

A lock ends with the process that holds it, however it ends, and is seen by every process of the machine, in
any container. File systems without such locks (some NFS mounts) go unlocked, and so do folders that another
program keeps locked (`flock FOLDER command`). Windows cannot lock folders, see `windows_locks`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

PATIENCE = 30.0
"""Seconds to wait for a lock; our own are held for less, except by the readers of very large models."""
_TAKEN: set[tuple[int, int]] = set()

if sys.platform == "win32":
    from tbt_compile.storage import windows_locks
    from tbt_compile.storage.windows_locks import held, is_abandoned

    def _locked(folder: Path, _shared: bool) -> AbstractContextManager[None]:
        return windows_locks.locked(folder, PATIENCE)

else:
    import fcntl

    @contextmanager
    def _locked(folder: Path, shared: bool) -> Iterator[None]:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # the folder is missing, or may not be read
            yield
            return
        try:
            _acquire(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            _release(handle)

    @contextmanager
    def held(folder: Path) -> Iterator[None]:
        """Hold a folder while it is written; see `is_abandoned`."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            _release(handle)

    def is_abandoned(folder: Path) -> bool:
        """Whether the process that held a folder is gone; False if that cannot be known."""
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
        finally:
            _release(handle)

    def _acquire(handle: int, operation: int) -> None:
        status = os.fstat(handle)
        folder = status.st_dev, status.st_ino
        last = time.monotonic() + (0 if folder in _TAKEN else PATIENCE)
        while True:
            try:
                return fcntl.flock(handle, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= last:
                    _TAKEN.add(folder)
                    return None
                time.sleep(0.0002)
            except OSError:  # this file system has no such locks
                return None

    def _release(handle: int) -> None:
        # Closing is not enough: a process forked meanwhile has a copy of the handle.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[None]:
    """Lock what a folder is replaced in: its parent, and the folder itself.

    The parent serialises writers that rename; the folder itself those that see it under other parents, such
    as a volume that is mounted in several containers.

    Args:
        path: of the folder, without symbolic links; it may be missing.
        shared: for readers, which do not exclude each other.
    """
    with ExitStack() as stack:
        for folder in (path.parent, path):
            stack.enter_context(_locked(folder, shared))
        yield
