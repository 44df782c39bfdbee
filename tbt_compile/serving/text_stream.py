"""Text that grows token by token, and ends before the first stop string."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""Tokens of bytes in a vocabulary that falls back to them."""


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
        self._falls_back = tokenizer.token_to_id("<0x0A>") is not None
        self._ids: list[int] = []
        self._decoded = self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns the piece of text that is certain now."""
        self._ids.append(token)
        if not self._falls_back:
            self._decoded += self._decoder.step(self._tokenizer, token) or ""
        elif not _BYTE.fullmatch(self._tokenizer.id_to_token(token) or ""):
            # A run of bytes decodes as a whole, to a replacement character each if it is no text: until it
            # ends, nothing of it is certain.
            self._extend()
        return self._give(self._certain())

    def _extend(self) -> None:
        """Decode all tokens, if that goes on from what was decoded before."""
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        if whole.startswith(self._decoded):
            self._decoded = whole

    def end(self) -> str:
        """Return the rest of the text."""
        if self.stopped:
            return ""
        self._extend()  # the decoder holds back the bytes of a character that the last token left incomplete
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
