"""The `tbt` application: all commands, and the conversion of errors to one line of text."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tbt_compile import __version__
from tbt_compile.cli import (
    bench,
    demo,
    doctor,
    evaluate,
    lower,
    operators,
    report,
    reproduce,
    run,
    serve,
    sign,
    summary,
    targets,
    train,
    tune,
    verify,
)
from tbt_compile.cli.console import err, fail, out
from tbt_compile.errors import TbtError
from tbt_compile.extras import require_extra

EPILOG = "Start with: tbt demo"
INTERRUPTED = 130
"""Exit code after Ctrl-C, by shell convention; typer converts the interrupt to it."""
RESUMABLE = ("demo", "train", "reproduce")
"""Commands that go on where they were stopped, unless they are told `--no-resume`."""

app = typer.Typer(
    name="tbt",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(lower.lower)
app.command(name="run")(run.run_text)
app.command()(serve.serve)
app.command()(sign.sign)
app.command()(summary.summary)
app.command()(verify.verify)
app.command()(report.report)
app.command()(reproduce.reproduce)
app.add_typer(bench.app, name="bench")
app.command()(tune.tune)
app.command()(targets.targets)
app.command()(operators.operators)
app.command()(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"tbt_compile {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Train text-generation models at one or two bits, and compile them to fast CPU libraries.

    **demo** runs the whole pipeline on a small model. For your own model and data: **train** distils a
    low-bit student from a full-precision checkpoint, **evaluate** scores it, **lower** compiles it, and
    **run** generates text with the compiled model, **serve** does so over HTTP.
    """


def main() -> None:
    """Run the command line; an expected error prints one line and exits with 2, an interrupt with 130."""
    try:
        with require_extra():
            app()
    except TbtError as error:
        if "--debug" in sys.argv:
            raise
        fail(str(error))
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
        goes_on = command in RESUMABLE and "--no-resume" not in sys.argv
        err.print("interrupted" + "; the same command goes on from here" * goes_on, style="red")
        sys.stdout.flush()
        # An ordinary exit would wait for worker threads, which may be inside a kernel for seconds.
        os._exit(INTERRUPTED)
