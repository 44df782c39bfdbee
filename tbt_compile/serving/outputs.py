"""The outputs of one request as they are written: from the engine's thread to the service's event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from tbt_compile.errors import TbtError
from tbt_compile.runtime.continuous import Engine
from tbt_compile.runtime.generation import GenerationSettings
from tbt_compile.runtime.writing import Writing
from tbt_compile.serving.text_stream import TextStream

_FINISH = {"end": "stop", "length": "length", "cancelled": "stop"}


class Doorbell:
    """Wakes an event loop from other threads: once for all that rang since it last looked.

    Args:
        loop: the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._rung: deque[asyncio.Event] = deque()
        self._heard = True

    def ring(self, event: asyncio.Event) -> None:
        """Have an event set in the loop.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._rung.append(event)
        if self._heard:
            self._heard = False
            self.loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._heard = True
        while self._rung:
            self._rung.popleft().set()


@dataclass
class Piece:
    """What happened to one output since its last piece.

    Attributes:
        choice: its number in the request.
        text: what came to its text, maybe nothing.
        tokens: how many are new.
        finish: "stop" or "length" in the last piece.
    """

    choice: int
    text: str = ""
    tokens: int = 0
    finish: str | None = None


class Outputs:
    """Writes the outputs of a request; `async for` gives their pieces, until all are done.

    The engine may be several tokens ahead of the event loop.

    Args:
        engine: writes them.
        bell: of the running event loop.
        tokenizer: of the `tokenizers` package.
        prompts: token ids.
        copies: outputs of each prompt.
        settings: of the outputs.
        stops: strings before which an output ends.
        timeout: seconds until the last piece.

    Raises:
        FullError: too many outputs are waiting.
        GenerationError: a prompt or a setting does not fit the model.
    """

    def __init__(
        self,
        engine: Engine,
        bell: Doorbell,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        copies: int,
        settings: GenerationSettings,
        stops: Sequence[str],
        timeout: float,
    ) -> None:
        engine.check_places(len(prompts) * copies)  # before as many are made
        self._bell = bell
        self._events: deque[tuple[int, Any]] = deque()
        self._arrived, self._woken, self._late = asyncio.Event(), False, False
        self.texts = [TextStream(tokenizer, stops) for _ in range(len(prompts) * copies)]
        self._writings = [
            self._prepared(engine, prompts[place // copies], settings, place, place % copies)
            for place in range(len(self.texts))
        ]
        engine.submit(self._writings)
        self._timer = bell.loop.call_later(timeout, self._expire)

    def _prepared(
        self, engine: Engine, prompt: Sequence[int], settings: GenerationSettings, place: int, stream: int
    ) -> Writing:
        def tell(event: Any) -> None:
            self._events.append((place, event))
            if self._woken:
                return
            self._woken = True
            try:
                self._bell.ring(self._arrived)
            except RuntimeError:  # the loop is closed: nobody waits any more
                writing.cancelled = True

        writing = engine.prepare(prompt, settings, stream, tell, tell)
        return writing

    def _expire(self) -> None:
        self._late = True
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Give the pieces as they come.

        Raises:
            TbtError: an output failed.
            TimeoutError: they took too long.
        """
        open_outputs = set(range(len(self.texts)))
        try:
            while open_outputs:
                await self._wait()
                for piece in self._pieces(open_outputs):
                    yield piece
        finally:
            self.cancel()

    async def _wait(self) -> None:
        while not self._events and not self._late:
            self._arrived.clear()
            self._woken = False
            if not self._events:  # else one came before the flag fell, and wakes nobody
                await self._arrived.wait()
        if self._late:
            raise TimeoutError

    def _pieces(self, open_outputs: set[int]) -> list[Piece]:
        """What came since the last call, a piece per output; takes those that are done from the open ones."""
        pieces: dict[int, Piece] = {}
        while self._events:
            place, event = self._events.popleft()
            if place not in open_outputs:
                continue  # a stop string ended it, and the engine is some tokens ahead
            if isinstance(event, TbtError):
                raise event
            text, piece = self.texts[place], pieces.setdefault(place, Piece(place))
            if isinstance(event, int):
                piece.text += text.push(event)
                piece.tokens += 1
                if text.stopped:
                    self._writings[place].cancelled = True
                    piece.finish = "stop"
            else:
                piece.text += text.end()
                piece.finish = "stop" if text.stopped else _FINISH[event]
            if piece.finish:
                open_outputs.discard(place)
        return list(pieces.values())

    def cancel(self) -> None:
        """End the outputs that are still being written, at the engine's next step."""
        self._timer.cancel()
        for writing in self._writings:
            writing.cancelled = True
