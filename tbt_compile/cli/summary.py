"""`tbt summary`: the layers of a model at any stage, with their bits, bytes and multiplications."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbt_compile.cli.console import JsonOption, spinner, write_json


def summary(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a model: full-precision, trained, packed, compiled; or a GGUF file."),
    ],
    recipe: Annotated[
        str | None, typer.Option(help="Show what a full-precision model would be at this recipe.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Add up what lies deeper in the tree of modules.", min=0)
    ] = None,
    tokens: Annotated[
        int, typer.Option(help="Length of the source and target whose products are counted.", min=1)
    ] = 128,
    json_path: JsonOption = None,
) -> None:
    """Show a model layer by layer: bits and why, parameters, bytes before and after, multiplications.

    A compiled folder needs no PyTorch, and may be for another machine. It keeps the counts of its
    compilation.

    Examples:

        tbt summary trained/student-2-2-2 --depth 3

        tbt summary my-bart --recipe 2-2-2

        tbt summary compiled --json layers.json
    """
    from tbt_compile.cli.models import describable
    from tbt_compile.inspection.summarize import summary as summarize
    from tbt_compile.inspection.summary_text import summary_text

    with spinner(f"loading {folder}"):
        model = describable(folder, recipe)
        found = summarize(model, tokens=tokens)
    write_json(found.to_dict(), json_path)
    if str(json_path) != "-":
        typer.echo(summary_text(found, depth))
