"""`tbt doctor`: this machine, its kernels and the installation, and a self-test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tbt_compile.cli.console import JsonOption, out, progress_bar, write_json

if TYPE_CHECKING:
    from tbt_compile.inspection.doctor import Diagnosis

FAULTY = 1
"""Exit code if something is not in order."""


def doctor(json_path: JsonOption = None) -> None:
    """Show this machine, the kernels that it gets and why, versions, cache and threads; test every kernel.

    The self-test compares each kernel, for few rows and for many, with a scalar reference, bit for bit. It
    takes two seconds once the kernels are in the cache. Exit code 1 says that something is not in order.

    Examples:

        tbt doctor

        tbt doctor --json machine.json
    """
    from tbt_compile.runtime.without_torch import hide_torch

    hide_torch()
    from tbt_compile.inspection.doctor import diagnose

    with progress_bar("looking at the machine") as progress:
        found = diagnose(progress)
    write_json(found.to_dict(), json_path)
    if str(json_path) != "-":
        _print(found)
    if not found.ok:
        raise typer.Exit(FAULTY)


def _print(found: Diagnosis) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, title="tbt doctor")
    for _ in range(4):
        table.add_column(overflow="fold")
    topic = ""
    for each in found.findings:
        style = None if each.ok else "red"
        label = "" if each.topic == topic else each.topic
        table.add_row(label, each.name, escape(each.value), escape(each.advice), style=style)
        topic = each.topic
    out.print(table)
    kernels = Table(title="self-test: kernels of this machine against scalar references")
    for heading in ("product", "rows", "kernel", "equal"):
        kernels.add_column(heading)
    reasons: dict[str, list[str]] = {}
    for test in found.kernels:
        equal = "yes" if test.ok else f"{test.differing} of {test.elements} differ"
        style = None if test.ok else "red"
        kernels.add_row(test.product, str(test.rows), test.kernel, equal, style=style)
        reasons.setdefault(test.why, []).append(test.kernel)
    out.print(kernels)
    for reason, names in reasons.items():
        out.print(f"{', '.join(dict.fromkeys(names))}: {reason}", markup=False, highlight=False)
    seconds = sum(test.seconds for test in found.kernels)
    good = sum(test.ok for test in found.kernels)
    out.print(f"{good} of {len(found.kernels)} kernels equal their reference, in {seconds:.1f} s")
    if not found.ok:
        for each in (each for each in found.findings if not each.ok):
            out.print(f"{each.name}: {each.advice}", style="red", markup=False)
