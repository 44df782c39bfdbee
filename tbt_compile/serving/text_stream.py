"""Text that grows token by token, and ends before the first stop string."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
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
        self._run = _Bytes()
        self._ids: list[int] = []
        self._before = self._read = 0  # tokens: those decoded again as context, and all that were decoded
        self._decoded = self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns the piece of text that is certain now."""
        self._ids.append(token)
        if not self._falls_back:
            self._decoded += self._decoder.step(self._tokenizer, token) or ""
            return self._give(self._certain())
        byte = _BYTE.fullmatch(self._tokenizer.id_to_token(token) or "")
        if byte is None:
            self._run = _Bytes()
        # A run of bytes decodes as a whole, to a replacement character each if it is no text: until it ends,
        # nothing of it is certain, unless a stop string ends the text within it.
        elif not self._run.completes(int(byte[1], 16), self._decoded, self._stops):
            return ""
        self._extend()
        return self._give(self._certain())

    def _extend(self) -> None:
        """Decode the tokens that are new, behind those that came with the last piece of text."""
        context = self._ids[self._before : self._read]
        before = str(self._tokenizer.decode(context, skip_special_tokens=True))
        both = str(self._tokenizer.decode(self._ids[self._before :], skip_special_tokens=True))
        if both.startswith(before) and len(both) > len(before):
            self._decoded += both[len(before) :]
            self._before, self._read = self._read, len(self._ids)

    def end(self) -> str:
        """Return the rest of the text."""
        if self.stopped:
            return ""
        # The decoder holds back the bytes of a character that the last token left incomplete.
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
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


class _Bytes:
    """A run of bytes, as far as it is text."""

    def __init__(self) -> None:
        self._decoder, self._text, self._is_text = codecs.getincrementaldecoder("utf-8")(), "", True

    def completes(self, byte: int, before: str, stops: Sequence[str]) -> bool:
        """Add a byte; returns whether a stop string ends with it, and the run is text so far.

        Args:
            byte: from 0 to 255.
            before: the text before the run.
            stops: strings before which the text ends.
        """
        try:
            new = self._decoder.decode(bytes([byte]))
        except UnicodeDecodeError:
            self._is_text = False
        if not self._is_text or not new:
            return False
        self._text += new
        most = max(map(len, stops), default=0)
        tail = (before[-most:] + self._text[-most:]) if most else ""
        return any(tail.endswith(stop) for stop in stops)
