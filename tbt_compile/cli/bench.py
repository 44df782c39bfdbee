"""`tbt bench`: speed and memory against other engines."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tbt_compile.bench.job import work_title
from tbt_compile.cli import bench_remote
from tbt_compile.cli.bench_growth import growth
from tbt_compile.cli.bench_kernels import kernels
from tbt_compile.cli.console import JsonOption, out, progress_bar, write_json

app = typer.Typer(no_args_is_help=True, help="Measure speed and memory against other engines.")
app.command()(growth)
app.command()(kernels)


@app.callback()
def bench() -> None:
    """Measure speed and memory against other engines."""


@app.command()
def generate(
    shape: Annotated[
        str,
        typer.Option(
            help="Model shape: tiny, bart-base, mbart-large; without encoder llama-134m, llama-1b, bitnet-2b."
        ),
    ] = "bart-base",
    recipe: Annotated[
        str, typer.Option(help="Recipes to measure, comma-separated; '' measures only the other engines.")
    ] = "1-1-1,2-2-2,2-2-8",
    peers: Annotated[bool, typer.Option(help="Measure the other engines too.")] = True,
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    source_length: Annotated[int, typer.Option(help="Tokens of every source text.")] = 512,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate for every text.")] = 64,
    batch: Annotated[int, typer.Option(help="Texts per batch.")] = 1,
    beams: Annotated[int, typer.Option(help="Beams of the search; 1 is greedy.")] = 1,
    lengths: Annotated[
        str,
        typer.Option(help="equal, or mixed: random from a quarter of the source length to all of it."),
    ] = "equal",
    shortlist: Annotated[
        int, typer.Option(help="Add a row per recipe with an output vocabulary of this many tokens.")
    ] = 0,
    repeats: Annotated[int, typer.Option(help="One-second turns of every engine; figures are medians.")] = 5,
    target: Annotated[str, typer.Option(help="CPU to compile for; it has to run on this machine.")] = "host",
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the recipes spend their time instead.")
    ] = False,
    rpc: bench_remote.RpcOption = None,
    key: bench_remote.KeyOption = "",
    json_path: JsonOption = None,
) -> None:
    """Generate text with random weights and compare engines.

    Every engine runs in a separate process, and the processes take turns. *encoder* (*prompt* for shapes
    without encoder) is the time to the first token minus one decoding step; *ms/token* is a decoding step of
    the whole batch; *tokens/s* is its throughput; *RAM* is the peak memory of the process during generation,
    libraries included; *load s* is the time to load the model; *vs. int8* is the speedup per token over the
    fastest other int8 engine. For beam search the PyTorch engines run `model.generate` of transformers, which
    adds one to two milliseconds per token.

    Examples:

        tbt bench generate --shape bart-base --recipe 2-2-2 --json out.json

        tbt bench generate --shape tiny --source-length 64 --new-tokens 16 --repeats 3

        tbt bench generate --batch 8 --lengths mixed --beams 4

        tbt bench generate --shortlist 8000

        tbt bench generate --profile --recipe 1-1-1

        tbt bench generate --rpc 192.168.1.9:9090 --key pi4 --target cortex-a72
    """
    from tbt_compile.runtime.without_torch import hide_torch

    if rpc is None:  # for a remote board this process compiles, which needs PyTorch
        hide_torch()
    from tbt_compile.bench.generation import BenchSettings, run

    settings = BenchSettings(
        shape=shape,
        recipes=tuple(part.strip() for part in recipe.split(",") if part.strip()),
        peers=peers,
        threads=threads,
        source_length=source_length,
        new_tokens=new_tokens,
        batch=batch,
        beams=beams,
        lengths=lengths,
        shortlist=shortlist,
        repeats=repeats,
        target=target,
    )
    if rpc is not None:
        bench_remote.generate(settings, rpc, key, json_path)
        return
    from tbt_compile.bench.profile import profile as measure_kinds

    with progress_bar("starting") as progress:
        result = (measure_kinds if profile else run)(settings, progress)
    write_json(result, json_path)
    if str(json_path) != "-":
        (_show_profile if profile else _show)(result)


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    from tbt_compile.bench.generation import best_int8_peer
    from tbt_compile.bench.model_shapes import get_shape

    settings, machine = result["settings"], result["conditions"]
    best = best_int8_peer(result["rows"])
    table = Table(
        title=work_title(settings),
        caption=f"{machine['cpu']} ({machine['llvm_cpu']}, {machine['vector_bits']}-bit vectors), load "
        f"{machine['load_average']}, " + ", ".join(f"{k} {v}" for k, v in machine["versions"].items()),
    )
    table.add_column("engine", no_wrap=True)
    first = "prompt ms" if get_shape(settings["shape"]).decoder_only else "encoder ms"
    for heading in (first, "ms/token", "tokens/s", "disk MiB", "RAM MiB", "load s", "vs. int8"):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        if row["skipped"]:
            table.add_row(row["name"], f"skipped: {row['skipped']}")
            continue
        versus = f"{best['token_ms'] / row['token_ms']:.2f}x" if best else ""
        figures = (
            f"{row['encoder_ms']:.1f}",
            f"{row['token_ms']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['size_mib']:.1f}",
            f"{row['peak_mib']:.0f}",
            f"{row['load_s']:.2f}",
            versus,
        )
        table.add_row(row["name"], *figures)
    out.print(table)


def _show_profile(result: dict[str, Any]) -> None:
    from rich.table import Table

    settings = result["settings"]
    for recipe in settings["recipes"]:
        rows = [row for row in result["rows"] if row["recipe"] == recipe]
        largest = next(row for row in rows if row["unit"] == "step")
        table = Table(
            title=f"{recipe}: {work_title(settings)}",
            caption=f"largest of a step: {largest['kind']}; {result['conditions']['cpu']}",
        )
        table.add_column("", no_wrap=True)
        units = list(dict.fromkeys(row["unit"] for row in rows))
        for unit in units:
            table.add_column(f"{unit.replace('_', ' ')} us", justify="right")
            table.add_column("%", justify="right")
        for kind in dict.fromkeys(row["kind"] for row in rows):
            cells = []
            for unit in units:
                found = [row for row in rows if (row["kind"], row["unit"]) == (kind, unit)]
                cells += [f"{found[0]['us']:.1f}", f"{found[0]['share']:.0%}"] if found else ["", ""]
            table.add_row(kind, *cells)
        out.print(table)
