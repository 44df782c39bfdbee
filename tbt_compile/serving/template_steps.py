"""A limit on what a chat template computes: it comes with a model, and may loop for ever."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_FILE = "<template>"
"""What Jinja calls the code of a template that comes from a string."""


class TooManyStepsError(Exception):
    """A template ran more lines, or longer, than it may."""


@contextmanager
def limited_steps(most: int, seconds: float) -> Iterator[None]:
    """Let the templates that this thread renders in the block run some lines for some time, and no more.

    Jinja turns a template into Python; loops are lines that run again. A line that sorts or joins much takes
    long, so the time is limited too; it is looked at between lines.

    Args:
        most: lines, of all templates together.
        seconds: from now on.

    Raises:
        TooManyStepsError: in the template, which ends it.
    """
    left, end = most, time.monotonic() + seconds

    def count(_frame: FrameType, event: str, _value: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left < 0 or time.monotonic() > end:
                raise TooManyStepsError
        return count

    def enter(frame: FrameType, _event: str, _value: Any) -> Any:
        return count if frame.f_code.co_filename == _FILE else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
