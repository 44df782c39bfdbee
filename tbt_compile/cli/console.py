"""Console output of all commands: streams, progress bars, JSON files and one-line errors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tbt_compile.storage.atomic_write import atomic_write, make_parents, require_writable


def writable(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before the work; the callback of options that name one.

    Raises:
        WriteError: see `require_writable`.
    """
    if path is not None and str(path) != "-":
        require_writable(path)
    return path


JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the figures to this file ('-': standard output).",
        callback=writable,
    ),
]

CheckOption = Annotated[
    bool, typer.Option("--check/--no-check", help="Compare the folder's files with their checksums.")
]
PublicKeyOption = Annotated[
    Path | None,
    typer.Option(
        help="Refuse a folder that was not signed by the private key of this public one; see `tbt sign`.",
        envvar="TBT_PUBLIC_KEY",
    ),
]

PRECISION_HELP = "Of float32 matrix products in training: highest, high or medium (faster, with bfloat16)."

# Results go to standard output, everything else to standard error, so `tbt ... > file` has only results.
out = Console()
err = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """Print one red line and exit with code 2."""
    err.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def warn(message: str) -> None:
    """Print one yellow line; the command goes on."""
    err.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar within the context; without a terminal, print a line of text now and then.

    Args:
        title: shown until the first report.

    Yields:
        A function that takes a description and the share that is done, between 0 and 1.
    """
    if not err.is_terminal:
        yield _PlainProgress()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=1.0)

        def update(text: str, share: float) -> None:
            bar.update(task, description=escape(text), completed=share)

        yield update


@contextmanager
def spinner(title: str, lasting: bool = False) -> Iterator[None]:
    """Show a spinner within the context, for work of unknown length.

    Args:
        title: shown beside it.
        lasting: without a terminal the title is printed: the work may take a minute.
    """
    if not err.is_terminal:
        if lasting:
            err.print(title, markup=False, highlight=False, soft_wrap=True)
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        bar.add_task(escape(title), total=None)
        yield


class _PlainProgress:
    """Prints a report when its subject changes, otherwise twice a minute."""

    SECONDS = 30.0

    def __init__(self) -> None:
        self.subject = ""
        self.printed = 0.0

    def __call__(self, text: str, share: float) -> None:
        subject = text.partition(":")[0]
        now = time.monotonic()
        if subject == self.subject and now - self.printed < self.SECONDS:
            return
        self.subject, self.printed = subject, now
        err.print(f"{share:4.0%} {text}", markup=False, highlight=False, soft_wrap=True)


def write_json(data: Any, path: Path | None) -> None:
    """Write `data` as JSON to `path`, making its parents; "-" is standard output, and None writes nothing.

    Raises:
        WriteError: the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    make_parents(path)
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")
