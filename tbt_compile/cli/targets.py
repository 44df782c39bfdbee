"""`tbt targets`: what can be built for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tbt_compile.cli.console import JsonOption, out, write_json

_USUAL = (
    *("x86-64-v3", "haswell", "znver3", "alderlake", "skylake-avx512", "cascadelake", "icelake-server"),
    *(
        "sapphirerapids",
        "znver4",
        "znver5",
        "cortex-a53",
        "cortex-a72",
        "cortex-a76",
        "neoverse-n1",
        "apple-m1",
    ),
)


def targets(
    everything: Annotated[
        bool, typer.Option("--all", help="List every CPU, not only the usual ones.")
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """List the CPUs that models can be compiled for.

    Any name in the first column is a value for `--target`; so is `host`, for the machine at hand.

    Examples:

        tbt targets

        tbt targets --all --json targets.json
    """
    from tbt_compile.runtime.without_torch import hide_torch

    hide_torch()
    from tbt_compile.codegen.target.host import host_target
    from tbt_compile.codegen.target.spec import ALIASES, list_targets

    host = host_target()
    specs = [spec for spec in list_targets() if everything or spec.mcpu in {*_USUAL, host.mcpu}]
    rows = [_row(spec, [alias for alias, name in ALIASES.items() if name == spec.mcpu]) for spec in specs]
    write_json({"host": {**_row(host, []), "mattr": list(host.mattr)}, "targets": rows}, json_path)
    if str(json_path) == "-":
        return
    from rich.table import Table

    table = Table(title=f"This machine is {host.mcpu} ({host.arch})")
    for heading in ("CPU", "architecture", "vector bits", "1 and 2 bits by", "8 bits by", "also called"):
        table.add_column(heading)
    for row in rows:
        style = "bold green" if row["cpu"] == host.mcpu else None
        bits = (row["popcount"], row["dot"])
        cells = (row["cpu"], row["arch"], str(row["vector_bits"]), *bits, ", ".join(row["aliases"]))
        table.add_row(*cells, style=style)
    out.print(table)
    if not everything:
        out.print("`tbt targets --all` lists the others.")


def _row(spec: Any, aliases: list[str]) -> dict[str, Any]:
    if spec.isa.has_popcount:
        popcount = "vector popcount"
    elif spec.arch == "aarch64":
        popcount = "byte popcount"
    elif spec.isa.looks_up:
        popcount = "table look-up"
    else:
        popcount = "shuffles" if "ssse3" in spec.features else "words"
    return {
        "cpu": spec.mcpu,
        "arch": spec.arch,
        "vector_bits": spec.isa.vector_bits,
        "popcount": popcount,
        "dot": "widening" if spec.isa.dot == "none" else spec.isa.dot,
        "aliases": aliases,
    }
