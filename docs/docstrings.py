"""How docstrings read in the reference: what Markdown and Google's style would take for something else."""

from __future__ import annotations

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
# What Google's style calls "Args:" too.
OTHER_ARGUMENTS = {"Arguments:": "Kernel arguments:", "Parameters:": "Learned parameters:"}
SECTION = re.compile(f"^(?:{'|'.join(OTHER_ARGUMENTS)})$", re.MULTILINE)
TOGETHER = re.compile(r"^( +)(\w+), (\w+): (.*)", re.MULTILINE)
# Two subscripts in a row, outside of code, are a link with a reference to Markdown.
SUBSCRIPTS = re.compile(r"(`[^`]*`)|\]\[")


class Docstrings(griffe.Extension):
    """Doctests become code; `Args:` alone are parameters of a function; two described at once become two."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of every object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text: str) -> str:
    """A docstring as the reference shows it.

    >>> readable("One.\\n\\n>>> 1 + 1\\n2")
    'One.\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```'
    """
    text = SECTION.sub(lambda found: OTHER_ARGUMENTS[found[0]], text)
    text = TOGETHER.sub(r"\1\2: see `\3`.\n\1\3: \4", text)
    parts = re.split(f"({DOCTEST.pattern})", text, flags=re.MULTILINE)
    parts[::2] = [SUBSCRIPTS.sub(lambda found: found[1] or "]\\[", part) for part in parts[::2]]
    parts[1::2] = [f"```pycon\n{part}\n```" for part in parts[1::2]]
    return "".join(parts)
