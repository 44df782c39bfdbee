"""Where one sentence ends and the next begins, by punctuation alone: no model to download."""

from __future__ import annotations

import re

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")


def sentences(text: str) -> list[str]:
    """The sentences of a text.

    >>> sentences("Shares fell 3.5 percent. Nobody knew why.")
    ['Shares fell 3.5 percent.', 'Nobody knew why.']
    """
    return _SENTENCE_END.split(text.strip())
