"""One HTML page that needs nothing else: the report as JSON, its style and its scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from tbt_compile.report.sections import Report

_SCRIPTS = ("elements.js", "graph_tree.js", "graph_view.js", "graph.js", "layers.js", "charts.js", "page.js")


def page(report: Report) -> str:
    """The page as text. Its policy allows its own style and scripts only, and no network."""
    style, script = _text("page.css"), "\n".join(map(_text, _SCRIPTS))
    return Template(_text("page.html")).substitute(
        title=escape(report.title),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=embedded(report.to_dict()),
    )


def embedded(values: Any) -> str:
    """JSON that may stand inside a script element: no text in it can end the element.

    >>> embedded("</script>")
    '"\\\\u003c/script>"'
    """
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names the text of an element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(name: str) -> str:
    return (files("tbt_compile.report") / name).read_text(encoding="utf-8")
