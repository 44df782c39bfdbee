"""Work that is done one at a time, of which a limited number waits for a limited time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response

from tbt_compile.runtime.continuous import FullError

Result = TypeVar("Result")
_GONE = 499
"""Status of an answer that nobody reads, by custom."""


class Turns:
    """A queue before something that uses all threads.

    Args:
        most_waiting: that may wait.
        timeout: seconds until an answer, waiting included.
    """

    def __init__(self, most_waiting: int, timeout: float) -> None:
        self._most_waiting, self._timeout = most_waiting, timeout
        self._free = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.waiting = self.running = 0

    async def take(self, work: Callable[[threading.Event], Result]) -> Result:
        """Run work in a thread when its turn comes.

        Args:
            work: looks at the event now and then, which is set when nobody waits for the result any more.

        Raises:
            FullError: too many are waiting.
            TimeoutError: it took too long.
        """
        if self.running and self.waiting >= self._most_waiting:
            raise FullError(f"{self.waiting} requests are waiting, and at most {self._most_waiting} may")
        stop = threading.Event()
        task = asyncio.create_task(self._turn(work, stop))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._timeout)
        except asyncio.TimeoutError as error:  # another class than TimeoutError until Python 3.11
            raise TimeoutError from error
        finally:
            stop.set()

    async def _turn(self, work: Callable[[threading.Event], Any], stop: threading.Event) -> Any:
        """The turn ends with the thread, also of work that nobody waits for."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            return None if stop.is_set() else await asyncio.to_thread(work, stop)
        finally:
            self.running -= 1
            self._free.release()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # else one that nobody waits for is reported as never retrieved


async def unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Await an answer, and give it up if the client hangs up.

    Args:
        request: whose body was read.
        work: gives the answer; cancelled if nobody waits for it.
    """
    answering = asyncio.create_task(work)
    watching = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else Response(status_code=_GONE)
    finally:
        for task in (answering, watching):
            task.cancel()
        await asyncio.gather(answering, watching, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
