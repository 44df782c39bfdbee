"""`tbt tune`: choose the kernels' register tiles by measurement on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbt_compile.cli.console import JsonOption, out, progress_bar, write_json


def tune(
    target: Annotated[str, typer.Option(help="CPU to compile for; it has to run on this machine.")] = "host",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to add the results to (default: your user's).")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Measure the register tiles of every kernel and keep the fastest for models compiled from now on.

    It takes a minute or two on a quiet machine and changes only speed, never results. Delete the file to
    return to the tiles of the package.

    Examples:

        tbt tune

        tbt tune --target haswell --output tiles.json
    """
    from tbt_compile.runtime.without_torch import hide_torch

    hide_torch()
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from tbt_compile.codegen.target import tiles
    from tbt_compile.codegen.target.host import check_runnable
    from tbt_compile.codegen.target.parse import parse_target
    from tbt_compile.codegen.tools import tuner
    from tbt_compile.storage.os_errors import require_makeable, writing

    spec = parse_target(target)
    check_runnable(spec)
    path = output or tiles.user_path()
    tiles.read(path)
    with writing(path):
        require_makeable(path.parent)
    with progress_bar("starting") as progress:
        results = tuner.tune(spec, progress)
    tiles.write(path, spec.isa, results)
    write_json({"isa": tiles.isa_class(spec.isa), "file": str(path), "kernels": results}, json_path)
    if str(json_path) == "-":
        return
    table = Table(title=f"register tiles for {spec.mcpu} ({tiles.isa_class(spec.isa)})", box=SIMPLE_HEAD)
    for heading in ("kernel", "tile", "us", "vs. default"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "kernel" else "right")
    for kernel, result in results.items():
        times = result["measured"]["us"]
        name = str(tiles.Tile(result["rows"], result["vectors"]))
        usual = next(iter(times.values()))
        table.add_row(kernel, name, f"{times[name]:.1f}", f"{usual / times[name]:.2f}x")
    out.print(table)
    out.print(f"written to {path}", markup=False, highlight=False, soft_wrap=True)
