"""Transcripts, and the forms in which OpenAI's interface gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tbt_compile.runtime.speech import Window


@dataclass(frozen=True)
class Segment:
    """What was said from one timestamp to another.

    Attributes:
        start: seconds.
        end: seconds.
        text: with the space that it begins with.
        tokens: of the text.
    """

    start: float
    end: float
    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Transcript:
    """What a recording says.

    Attributes:
        text: all of it.
        language: its name; None if the model has one language.
        seconds: of the recording.
        segments: in order; one per window if the model wrote no timestamps.
        task: "transcribe" or "translate".
    """

    text: str
    language: str | None
    seconds: float
    segments: list[Segment]
    task: str = "transcribe"

    def usage(self) -> dict[str, Any]:
        """What was read, in OpenAI's terms."""
        return {"type": "duration", "seconds": -(-self.seconds // 1)}

    def plain(self) -> dict[str, Any]:
        """response_format "json"."""
        return {"text": self.text, "usage": self.usage()}

    def verbose(self) -> dict[str, Any]:
        """response_format "verbose_json"; probabilities, which are not computed, are left out."""
        segments = [
            {"id": number, "start": each.start, "end": each.end, "text": each.text, "tokens": each.tokens}
            for number, each in enumerate(self.segments)
        ]
        head = {"task": self.task, "language": self.language, "duration": self.seconds}
        return {**head, "text": self.text, "segments": segments, "usage": self.usage()}

    def srt(self) -> str:
        """response_format "srt"."""
        return "".join(
            f"{number}\n{_clock(each.start, ',')} --> {_clock(each.end, ',')}\n{_lines(each.text)}\n\n"
            for number, each in enumerate(self.segments, 1)
        )

    def vtt(self) -> str:
        """response_format "vtt"."""
        return "WEBVTT\n\n" + "".join(
            f"{_clock(each.start, '.')} --> {_clock(each.end, '.')}\n{_lines(each.text)}\n\n"
            for each in self.segments
        )


def spans(window: Window, first: int, stride: int) -> Iterator[tuple[int, int, list[int]]]:
    """Take the output of a window apart at its timestamps.

    Args:
        window: of a recording.
        first: the token of the first timestamp.
        stride: frames per timestamp.

    Yields:
        First and last frame, and the tokens between, of every span that has some.
    """
    places = range(1, len(window.tokens))
    cuts = [place for place in places if min(window.tokens[place - 1 : place + 1]) >= first]
    for start, end in zip([0, *cuts], [*cuts, len(window.tokens)], strict=True):
        part = window.tokens[start:end]
        text = [token for token in part if token < first]
        if not text:
            continue
        begins = (part[0] - first) * stride if part[0] >= first else 0
        ends = (part[-1] - first) * stride if part[-1] >= first else window.frames
        yield window.start + begins, window.start + max(begins, ends), text


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _lines(text: str) -> str:
    """Text of a subtitle: a blank line would end it, and an arrow begin another."""
    return " ".join(text.split()).replace("-->", "->")
