"""`tbt report`: a model on one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbt_compile.cli.console import out, spinner
from tbt_compile.errors import TbtError


def report(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a model: full-precision, trained, packed, compiled; or a GGUF file."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Page to write.")],
    recipe: Annotated[
        str | None, typer.Option(help="Of a full-precision model, which is quantized without training.")
    ] = None,
    compiled: Annotated[
        Path | None,
        typer.Option(help="What `tbt lower` made of it: sizes, and with --clock the time of every layer."),
    ] = None,
    bench: Annotated[
        list[Path], typer.Option(metavar="FILE", help="What `tbt bench generate --json` wrote; repeatable.")
    ] = [],  # noqa: B006 (typer wants a list and does not change it)
    texts: Annotated[
        list[str],
        typer.Option(metavar="NAME=FILE", help="What `tbt run --json` wrote; one column each."),
    ] = [],  # noqa: B006
) -> None:
    """Write one page: graph before and after, layers, codes, times, benchmarks and texts.

    The page needs no network and no other file. What cannot be had of a folder says why. A compiled folder
    alone needs no PyTorch.

    Examples:

        tbt report trained/student-2-2-2 -o report.html

        tbt lower trained/student-2-2-2 --clock -o compiled

        tbt report trained/student-2-2-2 --compiled compiled --bench bench.json -o report.html

        tbt report compiled --texts 2-2-2=two.json --texts 1-1-1=one.json -o report.html
    """
    from tbt_compile.cli.models import describable
    from tbt_compile.report.collect import collect
    from tbt_compile.report.page import page
    from tbt_compile.storage.atomic_write import atomic_write

    named = dict(map(_named, texts))
    if len(named) < len(texts):
        raise TbtError("--texts names a model twice: give every file a name of its own")
    if output.is_dir() or not output.parent.is_dir():
        raise TbtError(f"--output {output} cannot be written: expected a file in a folder that exists")
    with spinner(f"loading {folder}"):
        model = describable(folder, None)
        if hasattr(model, "description"):
            ids, model.num_threads = None, 1
        else:
            ids = _first_text(folder, list(named.values()))
        other = None if compiled is None else describable(compiled, None)
        if other is not None and not hasattr(other, "description"):
            raise TbtError(f"--compiled {compiled} is not compiled: name the output folder of `tbt lower`")
        if other is not None:
            other.num_threads = 1
    with spinner(f"looking into {folder}"):
        found = collect(model, recipe=recipe, ids=ids, compiled=other, benchmarks=bench, texts=named)
        text = page(found)
        with atomic_write(output) as draft:
            draft.write_text(text, encoding="utf-8")
    out.print(
        f"{output}: {len(text.encode()) / 2**20:.2f} MiB, {found.title}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _named(option: str) -> tuple[str, Path]:
    """The name and the file of a --texts option."""
    name, separator, file = option.partition("=")
    if not (name and separator and file):
        raise TbtError(f"--texts {option}: expected NAME=FILE, such as 2-2-2=texts.json")
    return name, Path(file)


def _first_text(folder: Path, files: list[Path]) -> list[int] | None:
    """The tokens of the first source that has texts, if there is one and the folder has a tokenizer."""
    from tbt_compile.cli.models import tokenizer_of
    from tbt_compile.report.results import samples

    rows = samples({"": files[0]}).rows if files else ()
    tokenizer = tokenizer_of(folder) if rows else None
    return (tokenizer(rows[0][0]).input_ids or None) if tokenizer is not None else None
