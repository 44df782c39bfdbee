"""`tbt operators`: the operators that a model may call and still be compiled."""

from __future__ import annotations

from tbt_compile.cli.console import JsonOption, out, write_json


def operators(json_path: JsonOption = None) -> None:
    """List the ATen operators that can be compiled, and how.

    An operator with a converter becomes a kernel of this package or of TVM. PyTorch decomposes others into
    several, which may in turn have one. A model that calls any other operator is refused, with the name of
    the module that calls it.

    Examples:

        tbt operators

        tbt operators --json operators.json
    """
    from tbt_compile.codegen.importer.decompose import supported_operators

    found = supported_operators()
    write_json({"operators": found}, json_path)
    if str(json_path) == "-":
        return
    for how in dict.fromkeys(found.values()):
        names = [name for name, each in found.items() if each == how]
        out.print(f"[bold]{how}[/bold] ({len(names)})", highlight=False)
        out.print(", ".join(names), highlight=False)
