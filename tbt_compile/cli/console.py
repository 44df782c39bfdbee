"""What every command shares: where text goes, progress bars, JSON files and the one-line error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tbt_compile.errors import TbtError

JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the figures to this file ('-': standard output)."),
]

# Results go to standard output, everything else to standard error: `tbt ... > file` holds results only.
out = Console()
err = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """Print one red line and end with exit code 2."""
    err.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """A bar that is told (what is going on, share done between 0 and 1); it disappears when it is done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=1.0)

        def update(text: str, share: float) -> None:
            bar.update(task, description=text, completed=share)

        yield update


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """For work whose share done is not known."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        bar.add_task(title, total=None)
        yield


def write_json(data: Any, path: Path | None) -> None:
    """Write `data` to `path`; "-" is standard output, None nothing at all.

    Raises:
        TbtError: the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise TbtError(f"cannot write {path}: {error.strerror}") from error
