"""`tbt operators`: the operators that a model may call and still be compiled."""

from __future__ import annotations

from typing import Annotated

import typer

from tbt_compile.cli.console import JsonOption, out, write_json


def operators(
    name: Annotated[
        str | None, typer.Argument(help="List only those whose name holds this, such as 'pool'.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """List the ATen operators that can be compiled, and how.

    An operator with a converter becomes a kernel of this package or of TVM. PyTorch decomposes others into
    several, which may in turn have one. A model that calls any other operator is refused, with the name of
    the module that calls it.

    Examples:

        tbt operators

        tbt operators cumsum

        tbt operators --json operators.json
    """
    from tbt_compile.codegen.importer.decompose import supported_operators
    from tbt_compile.errors import TbtError, did_you_mean

    known = supported_operators()
    wanted = (name or "").lower().removeprefix("aten.").removeprefix("aten::")
    found = {each: how for each, how in known.items() if wanted in each.lower()}
    if not found:
        similar = did_you_mean(wanted, {each.partition(".")[0] for each in known})
        raise TbtError(f"no operator that can be compiled has {name!r} in its name.{similar}")
    write_json({"operators": found}, json_path)
    if str(json_path) == "-":
        return
    for how in dict.fromkeys(found.values()):
        names = [name for name, each in found.items() if each == how]
        out.print(f"[bold]{how}[/bold] ({len(names)})", highlight=False)
        out.print(", ".join(names), highlight=False)
