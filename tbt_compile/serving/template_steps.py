"""A limit on what a chat template computes: it comes with a model, and may loop for ever."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_FILE = "<template>"
"""What Jinja calls the code of a template that comes from a string."""


class TooManyStepsError(Exception):
    """A template ran more lines than it may."""


@contextmanager
def limited_steps(most: int) -> Iterator[None]:
    """Let the templates that this thread renders in the block run some lines, and no more.

    Jinja turns a template into Python; loops are lines that run again.

    Args:
        most: lines, of all templates together.

    Raises:
        TooManyStepsError: in the template, which ends it.
    """
    left = most

    def count(_frame: FrameType, event: str, _value: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left < 0:
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
