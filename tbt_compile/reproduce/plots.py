"""Plots with matplotlib, an optional dependency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tbt_compile.errors import ReproduceError
from tbt_compile.reproduce.histograms import Histogram
from tbt_compile.reproduce.summary import Spread
from tbt_compile.storage.atomic_write import atomic_write


def require_matplotlib() -> Any:
    """Import the module `matplotlib.figure`, which draws without a display.

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
    path: Path, title: str, label: str, groups: Sequence[str], series: Mapping[str, Sequence[Spread | None]]
) -> Path:
    """Draw a grouped horizontal bar chart, with the standard deviations as error bars.

    Args:
        path: the png file.
        title, label: of the figure and of the value axis.
        groups: names of the groups, from top to bottom.
        series: by name, one value per group; None leaves a gap.

    Returns:
        `path`.
    """
    size = (8.0, 1.4 + len(groups) * (0.1 + 0.14 * len(series)))
    figure = require_matplotlib().Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(series)
    for index, (name, spreads) in enumerate(series.items()):
        places = [group + (index - (len(series) - 1) / 2) * height for group in range(len(groups))]
        known = [(place, spread) for place, spread in zip(places, spreads, strict=True) if spread]
        axes.barh(
            [place for place, _ in known],
            [spread.mean for _, spread in known],
            height,
            xerr=[spread.deviation or 0.0 for _, spread in known],
            error_kw={"elinewidth": 1.0},
            label=name,
        )
    axes.set_yticks(range(len(groups)), groups, fontsize=8)
    axes.set_ylim(len(groups) - 0.4, -0.6)  # the first group on top
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(series), fontsize=8)
    return _save(figure, path)


def histograms(path: Path, title: str, rows: Mapping[str, Mapping[str, Histogram]]) -> Path:
    """Draw histograms, one row of panels per model.

    Args:
        path: the png file.
        title: of the figure.
        rows: histograms by model, then by panel.

    Returns:
        `path`.
    """
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
    """Draw one line per series over the same names.

    Args:
        path: the png file.
        title, ylabel: of the figure and of the value axis.
        series: by name, values by the name on the horizontal axis.
        top: the maximum possible value, drawn as a dotted line.

    Returns:
        `path`.
    """
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


def scatter(
    path: Path, title: str, labels: tuple[str, str], points: Mapping[str, tuple[float, float]]
) -> Path:
    """Draw named points over a logarithmic horizontal axis.

    Args:
        path: the png file.
        title: of the figure.
        labels: of the horizontal and the vertical axis.
        points: by name; horizontal values are above 0.

    Returns:
        `path`.
    """
    figure = require_matplotlib().Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, (across, up) in points.items():
        axes.plot(across, up, marker="o")
        axes.annotate(name, (across, up), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.12)  # room for the names
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title, fontsize=10)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    with atomic_write(path) as draft:
        # Omits matplotlib's version, so equal figures give equal files.
        figure.savefig(draft, format="png", dpi=110, metadata={"Software": None})
    return path
