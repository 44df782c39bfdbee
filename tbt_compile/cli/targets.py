"""`tbt targets`: the CPUs that models can be compiled for, and the kernels that each CPU gets."""

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
        "apple-m2",
        "apple-m4",
    ),
)
# Columns of the table by bits: (activation, weight) encodings.
_PRODUCTS = {
    "1 x 1": ("binary", "binary"),
    "2 x 2": ("ternary", "ternary"),
    "8 x 1": ("int8", "binary"),
    "8 x 2": ("int8", "ternary"),
    "8 x 8": ("int8", "int8"),
}


def complete_target(incomplete: str) -> list[str]:
    """Values for `--target` that begin with a text, for shell completion: the host and the usual CPUs."""
    return [name for name in ("host", *_USUAL) if name.startswith(incomplete)]


def targets(
    everything: Annotated[
        bool, typer.Option("--all", help="List every CPU, not just the common ones.")
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """List the CPUs that models can be compiled for, and the kernels that they get.

    Any name in the first column is a value for `--target`; so is `host`, for this machine. A system may
    follow the name, as in `--target "haswell windows"`; without one the first of its row is meant. The
    columns of the second table are bits of activations x weights: the kernel for few rows and, after `>`,
    that for many.

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
    _print_cpus(rows, host)
    _print_strategies(rows)
    if not everything:
        out.print("`tbt targets --all` lists the others.")


def _print_cpus(rows: list[dict[str, Any]], host: Any) -> None:
    from rich.table import Table

    table = Table(title=f"This machine is {host.label}")
    for heading in ("CPU", "architecture", "systems", "vector bits", "features", "also called"):
        table.add_column(heading)
    for row in rows:
        systems = " ".join(row["systems"])
        cells = (row["cpu"], row["arch"], systems, str(row["vector_bits"]), " ".join(row["features"]))
        style = "bold green" if row["cpu"] == host.mcpu else None
        table.add_row(*cells, ", ".join(row["aliases"]), style=style)
    out.print(table)


def _print_strategies(rows: list[dict[str, Any]]) -> None:
    """Print the kernels; CPUs with the same kernels share a row, and equal reasons are given once."""
    from rich.table import Table

    table = Table(title="bits of activations x weights: kernel for few rows > for many")
    table.add_column("CPU", no_wrap=True)
    groups: dict[tuple[str, ...], list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(tuple(map(_shown, row["strategies"].values())), []).append(row["cpu"])
        for product, found in row["strategies"].items():
            reasons.setdefault(_reason(found), []).append(product)
    for product in _PRODUCTS:
        table.add_column(product)
    for cells, cpus in groups.items():
        table.add_row("\n".join(cpus), *cells)
    out.print(table)
    for reason, products in reasons.items():
        out.print(f"{', '.join(dict.fromkeys(products))}: {reason}", highlight=False)


def _shown(found: dict[str, Any]) -> str:
    if found["few_rows"] == found["many_rows"]:
        return str(found["few_rows"])
    return f"{found['few_rows']} > {found['many_rows']} ({found['many_from']}+)"


def _reason(found: dict[str, Any]) -> str:
    kernels = dict.fromkeys((found["few_rows"], found["many_rows"]))
    return f"{', '.join(kernels)}: {found['why']}"


def _row(spec: Any, aliases: list[str]) -> dict[str, Any]:
    from tbt_compile.codegen.target.spec import systems_of

    if spec.isa.has_popcount:
        popcount = "vector popcount"
    elif spec.arch == "aarch64":
        popcount = "byte popcount"
    elif spec.isa.has("avx2"):
        popcount = "table look-up"
    else:
        popcount = "shuffles" if spec.isa.has("ssse3") else "words"
    return {
        "cpu": spec.mcpu,
        "arch": spec.arch,
        "systems": [system.name for system in systems_of(spec)],
        "vector_bits": spec.isa.vector_bits,
        "popcount": popcount,
        "dot": "widening" if spec.isa.dot == "none" else spec.isa.dot,
        "features": sorted(spec.isa.features),
        "strategies": {name: _strategy(*codes, spec.isa) for name, codes in _PRODUCTS.items()},
        "aliases": aliases,
    }


def _strategy(activation: str, weight: str, isa: Any) -> dict[str, Any]:
    from tbt_compile.codegen.kernels.strategy import strategy
    from tbt_compile.encoding import Encoding

    found = strategy(Encoding(activation), Encoding(weight), isa)
    return {
        "few_rows": found.gemv.value,
        "many_rows": found.gemm.value,
        "many_from": found.gemm_from,
        "layout": found.layout.value,
        "why": found.why,
    }
