"""The plot of `growth.run`: one row of panels per kind of work, one curve per engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbt_compile.bench.growth import WORK
from tbt_compile.bench.growth_curves import curve_points, names_of
from tbt_compile.bench.roofline_plot import require_matplotlib, save

_FIGURES = {
    "encoder_ms": "encoder, ms",
    "token_ms": "time per token, ms",
    "tokens_per_second": "tokens per second",
}


def plot(result: dict[str, Any], path: Path) -> None:
    """Plot encoder time, time per token and throughput on logarithmic axes.

    The dashed line is proportional growth from the lowest first point. Throughput has one only over the
    batch size, the one kind of work that it can grow with.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 11), layout="constrained")
    panels = figure.subplots(len(WORK), len(_FIGURES), squeeze=False)
    for row, work in zip(panels, WORK, strict=True):
        for axes, (kind, label) in zip(row, _FIGURES.items(), strict=True):
            _draw(axes, result, work, kind)
            axes.set_xlabel(work.replace("_", " "))
            axes.set_ylabel(label)
    panels[0][0].legend(fontsize=8)
    base, machine = result["settings"]["base"], result["conditions"]
    figure.suptitle(
        f"{base['shape']}, varied from {base['source_length']} source tokens, {base['new_tokens']} new ones, "
        f"batch {base['batch']}; {base['beams']} beam(s), {base['threads']} thread(s)\n{machine['cpu']}",
        fontsize=10,
    )
    save(figure, path)


def _draw(axes: Any, result: dict[str, Any], work: str, kind: str) -> None:
    starts = []
    xs: list[int] = []
    for name in names_of(result):
        points = curve_points(result, name, work)
        if not points:
            continue
        own = [point[work] for point in points]
        axes.plot(own, [point[kind] for point in points], "o-", markersize=4, label=name)
        starts.append((points[0][kind], own[0]))
        xs = sorted({*xs, *own})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    if starts and (kind != "tokens_per_second" or work == "batch"):
        y, x = min(starts)
        axes.plot(
            xs, [y * other / x for other in xs], "--", color="grey", linewidth=0.8, label="proportional"
        )
    axes.set_xticks(xs, [str(x) for x in xs])
    axes.minorticks_off()
    axes.grid(True, which="major", linewidth=0.3)
