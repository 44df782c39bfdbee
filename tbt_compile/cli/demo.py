"""`tbt demo`: the whole pipeline on generated text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbt_compile.cli.console import JsonOption, out, progress_bar, write_json

if TYPE_CHECKING:
    from tbt_compile.demo.run import DemoResult


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all files.")] = Path(
        "demo-output"
    ),
    resume: Annotated[
        bool, typer.Option(help="Resume from what the folder holds; --no-resume starts over.")
    ] = True,
    json_path: JsonOption = None,
) -> None:
    """Train, distil, pack, compile and compare a small summarizer: five to eight minutes on two cores.

    A grammar generates short news items with one-sentence summaries. A full-precision teacher is trained on
    them, and students at 2-2-2 and 1-1-1 bits are distilled from it. They run in PyTorch and compiled.

    Examples:

        tbt demo

        tbt demo --output /tmp/demo --json figures.json
    """
    from tbt_compile.demo.run import result_to_dict, run

    with progress_bar("starting") as progress:
        result = run(output, resume, progress)
    write_json(result_to_dict(result), json_path)
    if str(json_path) != "-":
        _show(result, output)


def _show(result: DemoResult, output: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    # At most 80 columns, the width of a log file.
    title = "One-sentence summaries of 500 news items"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("model", "engine"):
        table.add_column(heading, no_wrap=True)
    for heading in ("R-1", "R-2", "R-L", "words", "MiB", "ms/text", "same tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        same = [share for share in (row.same_greedy, row.same_beam) if share is not None]
        cells = (
            *(f"{score:.1f}" for score in (row.rouge1, row.rouge2, row.rougeL, row.mean_length)),
            f"{row.size_mib:.2f}",
            f"{row.ms_per_sentence:.1f}",
            " / ".join(f"{share:.1%}" for share in same),
        )
        table.add_row(row.name, row.engine, *cells)
    out.print(table)
    lines = (
        "R-1, R-2, R-L: ROUGE, in percent. MiB: the weight file. same tokens: share of texts identical to",
        "PyTorch's token for token, with greedy search / with four beams.",
        f"Trivial baselines: copying the first sentence has ROUGE-1 {result.lead_copy.rouge1:.1f}, "
        f"always writing the same text {result.constant.rouge1:.1f}.",
        "",
        *(f"{name}: {text}" for name, text in result.samples[0].items()),
        "",
        f'Try it: tbt run {output}/compiled-2-2-2 "{result.samples[1]["item"]}"',
    )
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
