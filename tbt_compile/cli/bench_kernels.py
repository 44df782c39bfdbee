"""`tbt bench kernels`: single linear layers against PyTorch and the roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tbt_compile.cli import bench_remote
from tbt_compile.cli.console import JsonOption, out, progress_bar, writable, write_json


def kernels(
    operators: Annotated[
        str, typer.Option(help="activation*weight pairs, comma-separated; default: the paper's.")
    ] = "",
    shapes: Annotated[
        str, typer.Option(help="MxNxK (rows, outputs, inputs), comma-separated; default: BART-base's.")
    ] = "",
    peers: Annotated[bool, typer.Option(help="Measure PyTorch too.")] = True,
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    rounds: Annotated[int, typer.Option(help="Turns of every engine; figures are medians.")] = 5,
    target: Annotated[str, typer.Option(help="CPU to compile for; it has to run on this machine.")] = "host",
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the roofline to this file (png, svg, pdf).", callback=writable
        ),
    ] = None,
    rpc: bench_remote.RpcOption = None,
    key: bench_remote.KeyOption = "",
    json_path: JsonOption = None,
) -> None:
    """Time linear layers on random data, one row per operator and shape.

    Times include quantizing and packing the activations, scales and bias. The *limit* is the measured
    roofline: the larger of the inner loop's time without memory traffic and the time to read the weights.

    Examples:

        tbt bench kernels --json out.json --plot roofline.png

        tbt bench kernels --operators "ternary*ternary" --shapes 1x4096x4096 --target haswell

        tbt bench kernels --rpc 192.168.1.9:9090 --key pi4 --target cortex-a72
    """
    from tbt_compile.bench.kernel_case import DEFAULT_OPERATORS, DEFAULT_SHAPES
    from tbt_compile.bench.kernels import KernelSettings, run
    from tbt_compile.bench.roofline_plot import plot as draw
    from tbt_compile.bench.roofline_plot import require_matplotlib

    if plot is not None:
        require_matplotlib()
    settings = KernelSettings(
        operators=_parts(operators) or DEFAULT_OPERATORS,
        shapes=_parts(shapes) or DEFAULT_SHAPES,
        threads=threads,
        rounds=rounds,
        target=target,
        peers=peers,
    )
    if rpc is not None:
        bench_remote.kernels(settings, rpc, key, json_path)
        return
    with progress_bar("starting") as progress:
        result = run(settings, progress)
    write_json(result, json_path)
    if plot is not None:
        draw(result, plot)
    if str(json_path) != "-":
        _show(result)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _show(result: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from tbt_compile.bench.kernels import PEERS, KernelRow

    machine, settings = result["conditions"], result["settings"]
    table = Table(
        title=f"linear layers for {machine['target']}, {settings['threads']} thread(s)",
        box=SIMPLE_HEAD,
        caption=f"{machine['cpu']}, load {machine['load_average']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
    )
    for heading in ("operator", "MxNxK"):
        table.add_column(heading, no_wrap=True)
    for heading in ("us", "GMAC/s", "GB/s", "limit", "fp32", "int8"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in (KernelRow(**values) for values in result["rows"]):
        speedups = [row.speedup(peer) for peer in PEERS]
        table.add_row(
            row.operator,
            f"{row.m}x{row.n}x{row.k}",
            f"{row.us:.1f}",
            f"{row.gmac_per_s:.0f}",
            f"{row.weight_gb_per_s:.1f}",
            f"{row.share_of_roof:.0%}" if row.arithmetic_us else "",
            *(f"{value:.1f}x" if value is not None else "" for value in speedups),
        )
    out.print(table)
    out.print(
        "limit: share of the roofline, the inner loop's arithmetic or reading the weights. "
        "fp32, int8: speedup over torch fp32 and torch int8 dynamic.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
