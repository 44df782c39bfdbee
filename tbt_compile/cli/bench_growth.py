"""`tbt bench growth`: scaling over source length, new tokens and batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tbt_compile.cli.console import JsonOption, out, progress_bar, writable, write_json
from tbt_compile.errors import TbtError


def growth(
    shape: Annotated[str, typer.Option(help="Model shape: tiny, bart-base or mbart-large.")] = "bart-base",
    recipe: Annotated[str, typer.Option(help="Recipes to measure, comma-separated.")] = "1-1-1,2-2-2",
    peers: Annotated[bool, typer.Option(help="Measure the other engines too.")] = False,
    source_lengths: Annotated[
        str, typer.Option(help="Tokens of a source text, comma-separated.")
    ] = "64,128,256,512,1024",
    new_tokens: Annotated[str, typer.Option(help="Tokens to generate, comma-separated.")] = "16,64,256,512",
    batches: Annotated[str, typer.Option(help="Texts per batch, comma-separated.")] = "1,2,4,8,16,32",
    base: Annotated[
        str, typer.Option(help="Point to vary one at a time: source length, new tokens, batch.")
    ] = "256,64,1",
    beams: Annotated[int, typer.Option(help="Beams of the search; 1 is greedy.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    repeats: Annotated[int, typer.Option(help="One-second turns of every engine; figures are medians.")] = 3,
    target: Annotated[str, typer.Option(help="CPU to compile for; it has to run on this machine.")] = "host",
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the curves to this file (png, svg, pdf).", callback=writable),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Measure scaling over source length, new tokens and batch size, one at a time.

    An exponent of 1 between two points is proportional growth. Exponents more than 0.15 above the expected
    one are reported; expected is 2 for the encoder over the source length, whose attention is quadratic, and
    1 otherwise. Points are written to the --json file as they are measured; with the same file, an
    interrupted command resumes.

    Examples:

        tbt bench growth --json growth.json --plot growth.png

        tbt bench growth --shape tiny --source-lengths 16,32,64 --new-tokens 8,16 --batches 1,4 --base 32,8,1
    """
    from tbt_compile.runtime.without_torch import hide_torch

    hide_torch()
    from tbt_compile.bench.generation import BenchSettings
    from tbt_compile.bench.growth import GrowthSettings, run
    from tbt_compile.bench.roofline_plot import require_matplotlib

    if plot is not None:
        require_matplotlib()
    middle = _numbers("base", base)
    if len(middle) != 3:
        raise TbtError(f"--base {base}: expected three numbers: source length, new tokens, batch")
    settings = GrowthSettings(
        base=BenchSettings(
            shape=shape,
            recipes=tuple(part.strip() for part in recipe.split(",") if part.strip()),
            peers=peers,
            threads=threads,
            source_length=middle[0],
            new_tokens=middle[1],
            batch=middle[2],
            beams=beams,
            repeats=repeats,
            target=target,
        ),
        source_length=_numbers("source-lengths", source_lengths),
        new_tokens=_numbers("new-tokens", new_tokens),
        batch=_numbers("batches", batches),
    )
    to_stdout = str(json_path) == "-"
    with progress_bar("starting") as progress:
        result = run(settings, None if to_stdout else json_path, progress)
    if plot is not None:
        from tbt_compile.bench.growth_plot import plot as draw

        draw(result, plot)
    if to_stdout:
        write_json(result, json_path)
    else:
        _show(result)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise TbtError(f"--{option} {text}: expected comma-separated whole numbers") from error


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    from tbt_compile.bench.growth_curves import steps

    for point in result["points"]:
        if point["skipped"]:
            _say(f"{point['name']} skipped: {point['skipped']}")
    found = list(steps(result))
    table = Table(title="growth: cost ~ work ** exponent", caption=result["conditions"]["cpu"])
    for heading in ("engine", "cost", "over"):
        table.add_column(heading, no_wrap=True)
    table.add_column("exponent from point to point")
    table.add_column("expected", justify="right")
    for name, curve in dict.fromkeys((step.name, step.curve) for step in found):
        own = [step for step in found if (step.name, step.curve) == (name, curve)]
        exponents = ", ".join(
            f"{step.start}-{step.stop}: {step.exponent:.2f}{'!' * step.steep}" for step in own
        )
        table.add_row(name, curve.cost, curve.work, exponents, f"up to {curve.expected:.0f}")
    out.print(table)
    for curve in dict.fromkeys(step.curve for step in found if step.curve.reason):
        _say(f"up to {curve.expected:.0f} is expected of {curve.cost} over {curve.work}: {curve.reason}")
    steep = [step for step in found if step.steep]
    for step in steep:
        where = f"{step.curve.cost} over {step.curve.work} from {step.start} to {step.stop}"
        _say(f"steeper than expected: {step.name}, {where}: {step.exponent:.2f}")
    if not steep:
        _say("nothing grows faster than expected")


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
