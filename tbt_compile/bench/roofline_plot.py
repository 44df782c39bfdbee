"""The roofline plot of a kernel benchmark."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tbt_compile.bench.kernels import KernelRow
from tbt_compile.errors import TbtError
from tbt_compile.storage.atomic_write import atomic_write, make_parents


def require_matplotlib() -> None:
    """Check that matplotlib is installed, before anything is measured.

    Raises:
        TbtError: it is not; the message says what to install.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise TbtError("a plot needs matplotlib; install it with: pip install 'tbt-compile[report]'")


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure in the format of the file's suffix; png without one."""
    make_parents(path)
    with atomic_write(path) as draft:
        figure.savefig(draft, dpi=150, format=path.suffix.lstrip(".") or "png")


def plot(result: dict[str, Any], path: Path) -> None:
    """Plot throughput over arithmetic intensity, one point per row, with its roofline."""
    require_matplotlib()
    from matplotlib.figure import Figure

    rows = [KernelRow(**row) for row in result["rows"]]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for index, operator in enumerate(dict.fromkeys(row.operator for row in rows)):
        colour = f"C{index}"
        own = [row for row in rows if row.operator == operator]
        xs = [row.m * row.n * row.k / row.weight_bytes for row in own]
        axes.plot(xs, [row.gmac_per_s for row in own], "o", color=colour, label=operator)
        for x, row in zip(xs, own, strict=True):
            if row.arithmetic_us:  # 0: the roofline is unknown
                roof = row.m * row.n * row.k / row.roof_us / 1e3
                axes.plot([x], [roof], "_", color=colour, markersize=14)
                axes.plot([x, x], [row.gmac_per_s, roof], "-", color=colour, linewidth=0.7)
            axes.annotate(
                f"{row.m}x{row.n}x{row.k}",
                (x, row.gmac_per_s),
                xytext=(4, -8),
                textcoords="offset points",
                fontsize=6,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("multiplications per byte of packed weights")
    axes.set_ylabel("GMAC/s (dot: measured, bar: the machine's limit)")
    machine = result["conditions"]
    threads = result["settings"]["threads"]
    axes.set_title(f"{machine['cpu']}, built for {machine['target']}, {threads} thread(s)", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(True, which="major", linewidth=0.3)
    save(figure, path)
