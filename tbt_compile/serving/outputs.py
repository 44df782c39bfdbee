"""The outputs of one request as they are written: from the engine's thread to the service's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from tbt_compile.errors import TbtError
from tbt_compile.runtime.continuous import Engine
from tbt_compile.runtime.generation import GenerationSettings
from tbt_compile.runtime.writing import Writing
from tbt_compile.serving.text_stream import TextStream

_FINISH = {"end": "stop", "length": "length", "cancelled": "stop"}


@dataclass
class Piece:
    """What happened to one output.

    Attributes:
        choice: its number in the request.
        text: what came to its text, maybe nothing.
        tokens: new tokens, 0 or 1.
        finish: "stop" or "length" in the last piece.
    """

    choice: int
    text: str
    tokens: int = 0
    finish: str | None = None


class Outputs:
    """Writes the outputs of a request; `async for` gives their pieces, until all are done.

    Args:
        engine: writes them.
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
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        copies: int,
        settings: GenerationSettings,
        stops: Sequence[str],
        timeout: float,
    ) -> None:
        self._deadline = time.monotonic() + timeout
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Any]]()
        self.texts = [TextStream(tokenizer, stops) for _ in range(len(prompts) * copies)]
        self._writings = [
            self._prepared(engine, prompts[place // copies], settings, place, place % copies)
            for place in range(len(self.texts))
        ]
        engine.submit(self._writings)

    def _prepared(
        self, engine: Engine, prompt: Sequence[int], settings: GenerationSettings, place: int, stream: int
    ) -> Writing:
        def tell(event: Any) -> None:
            try:
                self._loop.call_soon_threadsafe(self._events.put_nowait, (place, event))
            except RuntimeError:  # the loop is closed: nobody waits any more
                writing.cancelled = True

        writing = engine.prepare(prompt, settings, stream, tell, tell)
        return writing

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Give the pieces as they come.

        Raises:
            TbtError: an output failed.
            TimeoutError: they took too long.
        """
        open_outputs = set(range(len(self.texts)))
        try:
            while open_outputs:
                try:
                    left = self._deadline - time.monotonic()
                    place, event = await asyncio.wait_for(self._events.get(), left)
                except asyncio.TimeoutError:  # another class than TimeoutError until Python 3.11
                    raise TimeoutError from None
                if place not in open_outputs:
                    continue  # a stop string ended it, and the engine is some tokens ahead
                text = self.texts[place]
                if isinstance(event, TbtError):
                    raise event
                if isinstance(event, int):
                    piece = Piece(place, text.push(event), tokens=1)
                    if text.stopped:
                        self._writings[place].cancelled = True
                        piece.finish = "stop"
                else:
                    piece = Piece(place, text.end(), finish=_FINISH[event])
                if piece.finish:
                    open_outputs.discard(place)
                yield piece
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the outputs that are still being written, at the engine's next step."""
        for writing in self._writings:
            writing.cancelled = True
