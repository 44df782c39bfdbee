"""Persistent worker threads that call compiled functions.

TVM creates a thread pool for every thread that calls a kernel, and keeps the pool after that thread ends. A
server that starts a thread per request would leak pools, so calls from threads other than the main one are
handed to a few workers that are reused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_MOST = 1024
"""Maximum number of workers; a worker is started only when all others are busy."""

Result = TypeVar("Result")


class _Current(threading.local):
    is_worker = False


_current = _Current()


def submit(work: Callable[[], Result]) -> Future[Result]:
    """Run `work` in a worker thread."""
    return _threads.submit(work)


def run(work: Callable[[], Result]) -> Result:
    """Return `work()`, called directly in the main thread and in workers, else in a worker."""
    if _current.is_worker or threading.current_thread() is threading.main_thread():
        return work()
    return submit(work).result()


def _mark_worker() -> None:
    _current.is_worker = True


def _start() -> None:
    global _threads  # a forked child has none of its parent's threads
    _current.is_worker = False
    _threads = ThreadPoolExecutor(_MOST, thread_name_prefix="tbt-worker", initializer=_mark_worker)


_threads: ThreadPoolExecutor
_start()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_start)
