"""`tbt lower`: from a trained or packed model to a folder with a library for one CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbt_compile.cli.console import JsonOption, out, spinner, write_json


def lower(
    source: Annotated[Path, typer.Argument(help="Folder of a trained (`tbt train`) or packed model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    target: Annotated[
        str, typer.Option(help="'host', a CPU name (see `tbt targets`), or 'llvm -mcpu=NAME'.")
    ] = "host",
    recipe: Annotated[
        str | None, typer.Option(help="Quantize a full-precision model on the spot, without training.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Compile a model for a CPU: this machine's, or another's.

    No C compiler is needed, for other machines either. The folder that is written runs with `tbt run`, or
    with `tbt_compile.load` in Python, and needs no PyTorch.

    Examples:

        tbt lower trained --output compiled

        tbt lower trained --target cortex-a72 --output for-raspberry-pi-4
    """
    import time

    from tbt_compile import storage
    from tbt_compile.cli.models import open_for_lowering, tokenizer_of
    from tbt_compile.codegen.target import parse_target

    spec = parse_target(target)
    start = time.perf_counter()
    with spinner(f"loading {source}"):
        model = open_for_lowering(source, recipe)
    with spinner(f"compiling for {spec.mcpu}"):
        import tbt_compile

        compiled = tbt_compile.lower(model, target=spec)
        compiled.save(output, tokenizer=tokenizer_of(source))
    figures = {
        "output": str(output),
        "target": spec.as_dict(),
        "size_mib": storage.folder_bytes(output) / 2**20,
        "seconds": time.perf_counter() - start,
    }
    write_json(figures, json_path)
    if str(json_path) != "-":
        size, seconds = figures["size_mib"], figures["seconds"]
        text = f"{output}: {size:.1f} MiB for {spec.mcpu} ({spec.arch}), {seconds:.0f} s"
        out.print(text, highlight=False, soft_wrap=True)
