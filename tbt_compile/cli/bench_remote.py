"""`tbt bench ... --rpc`: benchmarks on a remote board, shown as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tbt_compile.cli.console import out, progress_bar, write_json

RpcOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Measure on a machine that runs TVM's RPC server; see --key."),
]
KeyOption = Annotated[str, typer.Option(metavar="NAME", help="The key that the server was started with.")]


def kernels(settings: Any, address: str, key: str, json_path: Path | None) -> None:
    """Measure linear layers and print a table.

    Args:
        settings: a `KernelSettings`.
        address: "HOST:PORT" of the RPC server.
        key: that the server was started with.
        json_path: file for the figures; "-" prints them instead of the table, None writes none.
    """
    from tbt_compile.bench.remote import run_kernels

    with progress_bar("connecting") as progress:
        result = run_kernels(settings, address, key, progress)
    rows = [
        (row["operator"], f"{row['m']}x{row['n']}x{row['k']}", f"{row['us']:.1f}", f"{row['gmac_per_s']:.2f}")
        for row in result["rows"]
    ]
    _show("linear layers", ("operator", "MxNxK", "us", "GMAC/s"), rows, result, json_path)


def generate(settings: Any, address: str, key: str, json_path: Path | None) -> None:
    """Measure generation and print a table.

    Args:
        settings: a `BenchSettings`.
        address, key, json_path: as for `kernels`.
    """
    from tbt_compile.bench.remote import run_generation

    with progress_bar("connecting") as progress:
        result = run_generation(settings, address, key, progress)
    rows = [
        (row["recipe"], f"{row['encoder_ms']:.2f}", f"{row['token_ms']:.3f}", f"{row['size_mib']:.1f}")
        for row in result["rows"]
    ]
    title = f"{settings.shape}, {settings.source_length} source tokens, {settings.new_tokens} new ones"
    _show(title, ("recipe", "encoder ms", "ms/token", "disk MiB"), rows, result, json_path)


def _show(
    title: str,
    headings: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    result: dict[str, Any],
    json_path: Path | None,
) -> None:
    from rich.table import Table

    write_json(result, json_path)
    if str(json_path) == "-":
        return
    board, threads = result["board"], result["settings"]["threads"]
    where = f"{board['key']} at {board['address']}, compiled for {board['target']['mcpu']}"
    table = Table(title=f"{title}, {threads} thread(s)", caption=where)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)
