"""The table that `tbt demo` ends with."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tbt_compile.cli import demo
from tbt_compile.demo.rows import DemoRow
from tbt_compile.demo.run import DemoResult
from tbt_compile.evaluation import RougeScores

SCORES = RougeScores(97.25, 95.0, 97.125, 97.125)


def row(name: str, engine: str, ms: float, same: float | None) -> DemoRow:
    return DemoRow(name, engine, 97.25, 95.0, 97.125, 16.5, 14.25, ms, same, same)


def test_every_figure_is_whole_in_a_log_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(demo, "out", Console(file=shown, width=80))
    rows = (row("teacher", "torch", 1043.25, None), row("2-2-2", "compiled", 1.5, 1.0))
    samples = ({"item": "a", "summary": "b"}, {"item": "c", "summary": "d"})
    demo._show(DemoResult(rows, SCORES, SCORES, samples, {}), Path("out"))
    text = shown.getvalue()
    assert "…" not in text
    for part in ("teacher", "1043.2", "compiled", "100.0% / 100.0%"):
        assert part in text
