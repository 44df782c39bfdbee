"""Text that grows token by token, and ends before the first stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TextStream:
    """Turns token ids into pieces of text that never have to be taken back.

    A token may hold part of a character, and a text may turn out to end with a stop string: what may still
    change is held back.

    Args:
        tokenizer: of the `tokenizers` package.
        stops: strings before which the text ends.

    Attributes:
        text: what was given out so far.
        stopped: whether a stop string was found.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns the piece of text that is certain now."""
        self._ids.append(token)
        self._decoded += self._decoder.step(self._tokenizer, token) or ""
        return self._give(self._certain())

    def end(self) -> str:
        """Return the rest of the text."""
        if self.stopped:
            return ""
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        # The decoder holds back the bytes of a character that the last token left incomplete.
        if whole.startswith(self._decoded):
            self._decoded = whole
        stop = self._first_stop()
        return self._give(len(self._decoded) if stop is None else stop)

    def _certain(self) -> int:
        """How much of the decoded text can be given out."""
        stop = self._first_stop()
        if stop is not None:
            return stop
        for start in range(max(len(self.text), len(self._decoded) - self._longest + 1), len(self._decoded)):
            if any(stop.startswith(self._decoded[start:]) for stop in self._stops):
                return start
        return len(self._decoded)

    @property
    def _longest(self) -> int:
        return max(map(len, self._stops), default=1)

    def _first_stop(self) -> int | None:
        places = [place for stop in self._stops if (place := self._decoded.find(stop)) >= 0]
        self.stopped = self.stopped or bool(places)
        return min(places, default=None)

    def _give(self, until: int) -> str:
        piece = self._decoded[len(self.text) : until]
        self.text += piece
        return piece
