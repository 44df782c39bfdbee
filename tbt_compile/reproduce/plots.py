"""Drawing with matplotlib, which is an optional package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tbt_compile.errors import ReproduceError
from tbt_compile.reproduce.histograms import Histogram


def require_matplotlib() -> Any:
    """The module `matplotlib.figure`, which draws without a display.

    Raises:
        ReproduceError: matplotlib is not installed.
    """
    try:
        from matplotlib import figure
    except ImportError as error:
        raise ReproduceError(
            "figures need matplotlib, which is not installed: pip install 'tbt-compile[report]'"
        ) from error
    return figure


def bars(
    path: Path, title: str, ylabel: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> Path:
    """Grouped bars: one group per name, one bar of it per series; None leaves a gap."""
    figure = require_matplotlib().Figure(figsize=(1.5 + 0.9 * len(groups), 4.0), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        places = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, [value or 0.0 for value in values], width, label=name)
    axes.set_xticks(range(len(groups)), groups, rotation=45, ha="right", fontsize=8)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    return _save(figure, path)


def histograms(path: Path, title: str, rows: Mapping[str, Mapping[str, Histogram]]) -> Path:
    """One row of panels per name, one panel per histogram."""
    columns = max(len(row) for row in rows.values())
    figure = require_matplotlib().Figure(figsize=(3.0 * columns, 2.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, row) in zip(panels, rows.items(), strict=True):
        for axes, (what, values) in zip(line, row.items(), strict=True):
            edges, shares = values["edges"], values["shares"]
            widths = [right - left for left, right in pairwise(edges)]
            axes.bar(edges[:-1], shares, widths, align="edge")
            axes.set_title(f"{name}: {what}", fontsize=8)
            axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def lines(path: Path, title: str, ylabel: str, series: Mapping[str, Mapping[str, float]], top: float) -> Path:
    """One line per series over the same names, and a dotted one at `top`, the most there can be."""
    names = list(next(iter(series.values())))
    figure = require_matplotlib().Figure(figsize=(2.0 + 0.16 * len(names), 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in series.items():
        axes.plot(range(len(names)), [values[layer] for layer in names], marker=".", label=name)
    axes.axhline(top, linestyle=":", color="gray")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    draft = path.with_name(f".{path.name}")
    # Without a date and the library's version the same figures give the same file.
    figure.savefig(draft, format="png", dpi=110, metadata={"Software": None})
    draft.replace(path)
    return path
