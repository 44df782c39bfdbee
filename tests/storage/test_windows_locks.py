"""Locks under Windows, on a stand-in for the kernel that keeps its objects in a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tbt_compile.errors import WriteError
from tbt_compile.storage import windows_locks
from tbt_compile.storage.os_errors import writing


class Kernel:
    """Mutexes and events by name; an event exists as long as somebody has a handle of it."""

    def __init__(self) -> None:
        self.handles: dict[int, str] = {}
        self.owned: set[str] = set()
        self.waited: list[int] = []
        self.denied = False

    def CreateMutexW(self, security: None, owned: bool, name: str) -> int:
        return self._open(name)

    def CreateEventW(self, security: None, manual: bool, state: bool, name: str) -> int:
        return self._open(name)

    def OpenEventW(self, access: int, inherited: bool, name: str) -> int | None:
        return self._open(name) if name in self.handles.values() and not self.denied else None

    def GetLastError(self) -> int:
        return 5 if self.denied else 2

    def WaitForSingleObject(self, handle: int, milliseconds: int) -> int:
        self.waited.append(milliseconds)
        if self.handles[handle] in self.owned:
            return 0x102  # WAIT_TIMEOUT
        self.owned.add(self.handles[handle])
        return 0

    def ReleaseMutex(self, handle: int) -> None:
        self.owned.remove(self.handles[handle])

    def CloseHandle(self, handle: int) -> None:
        del self.handles[handle]

    def _open(self, name: str) -> int:
        assert name.startswith("Global\\") and "\\" not in name.removeprefix("Global\\") and len(name) < 260
        handle = max(self.handles, default=0) + 1
        self.handles[handle] = name
        return handle


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(windows_locks, "_kernel", lambda: made)
    return made


def test_a_lock_is_held_for_the_block(kernel: Kernel, tmp_path: Path) -> None:
    with windows_locks.locked(tmp_path, 0.5), windows_locks.locked(tmp_path.parent, 0.5):
        assert len(kernel.owned) == 2
        with windows_locks.locked(tmp_path / ".." / tmp_path.name, 0.25):  # the wait ends without the lock
            assert len(kernel.owned) == 2
        assert len(kernel.owned) == 2
    assert kernel.waited == [500, 500, 250]
    assert (kernel.owned, kernel.handles) == (set(), {})


def test_a_folder_is_abandoned_when_its_writer_is_gone(kernel: Kernel, tmp_path: Path) -> None:
    assert windows_locks.is_abandoned(tmp_path)
    with windows_locks.held(tmp_path):
        assert not windows_locks.is_abandoned(tmp_path)
        assert windows_locks.is_abandoned(tmp_path.parent)
    assert windows_locks.is_abandoned(tmp_path)
    kernel.denied = True
    assert not windows_locks.is_abandoned(tmp_path), "another user's, who may be at work"
    assert kernel.handles == {}


@pytest.mark.parametrize("winerror", [5, 32])
def test_a_file_that_is_open_is_named_as_a_cause(winerror: int) -> None:
    error: Any = PermissionError(13, "The process cannot access the file")
    error.winerror = winerror
    message = "cannot write model: .*; end the programs that have it open"
    with pytest.raises(WriteError, match=message), writing("model"):
        raise error
