"""Threads that call compiled functions, kept for as long as the process lives.

TVM gives every thread that calls a kernel a pool of threads, and keeps the pool when the thread has ended. So
the work of a program's other threads, which may be thousands one after the other, is done by a few that are
used again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_MOST = 1024
"""Threads at a time; there are only as many as were ever busy at once."""

Result = TypeVar("Result")


class _Here(threading.local):
    is_kept = False


_here = _Here()


def submit(work: Callable[[], Result]) -> Future[Result]:
    """Have `work` done by a kept thread."""
    return _threads.submit(work)


def run(work: Callable[[], Result]) -> Result:
    """What `work` returns: called here by the main thread and by kept ones, handed over by others."""
    if _here.is_kept or threading.current_thread() is threading.main_thread():
        return work()
    return submit(work).result()


def _keep() -> None:
    _here.is_kept = True


def _start() -> None:
    global _threads  # a child process has none of its parent's threads
    _here.is_kept = False
    _threads = ThreadPoolExecutor(_MOST, thread_name_prefix="tbt-worker", initializer=_keep)


_threads: ThreadPoolExecutor
_start()
os.register_at_fork(after_in_child=_start)
