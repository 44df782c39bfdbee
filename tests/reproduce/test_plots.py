"""Pictures: that what is drawn depends on every figure, and on nothing else."""

from __future__ import annotations

from pathlib import Path

from tbt_compile.reproduce.plots import bars
from tbt_compile.reproduce.summary import Spread

GROUPS = ("TBT  2-2-2", "TBT  1-1-1")


def drawn(path: Path, *ours: Spread | None) -> bytes:
    series = {"ours": ours, "paper": [Spread(0.8, None), Spread(0.7, None)]}
    return bars(path, "a title", "share", GROUPS, series).read_bytes()


def test_bars_show_means_whiskers_and_gaps(tmp_path: Path) -> None:
    known, without = Spread(0.7, 0.1), Spread(0.7, None)
    picture = drawn(tmp_path / "bars.png", known, known)
    assert picture.startswith(b"\x89PNG")
    assert picture == drawn(tmp_path / "again.png", known, known)
    assert picture != drawn(tmp_path / "means.png", known, Spread(0.6, 0.1))
    assert picture != drawn(tmp_path / "whiskers.png", known, without)
    assert picture != drawn(tmp_path / "gap.png", known, None)
    assert len(list(tmp_path.iterdir())) == 5, "no draft is left"
