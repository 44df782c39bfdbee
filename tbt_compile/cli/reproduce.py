"""`tbt reproduce`: the paper's tables and figure 2, on any data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbt_compile.cli.console import PRECISION_HELP, JsonOption, err, out, progress_bar, write_json

if TYPE_CHECKING:
    from tbt_compile.reproduce.estimate import PlannedWork

_DATA, _TRAINING = "Data", "Training"


def reproduce(
    table: Annotated[str, typer.Argument(help="table1 to table4, figure2, defaults or recipes.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="Folder for models, rows, tables and figures.")],
    data: Annotated[
        str | None,
        typer.Option(help="Folder with train.jsonl and test.jsonl, or DEMO.", rich_help_panel=_DATA),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="xsum, cnn_dailymail or wmt16-ro-en, downloaded.", rich_help_panel=_DATA),
    ] = None,
    source_length: Annotated[
        int | None, typer.Option(help="Truncate sources to this many tokens.", min=2, rich_help_panel=_DATA)
    ] = None,
    target_length: Annotated[
        int | None, typer.Option(help="Truncate targets to this many tokens.", min=2, rich_help_panel=_DATA)
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Columns of the table: rouge or bleu.", rich_help_panel=_DATA)
    ] = None,
    test_sentences: Annotated[
        int | None,
        typer.Option(help="Score only the first pairs of the test split.", min=1, rich_help_panel=_DATA),
    ] = None,
    num_beams: Annotated[int | None, typer.Option(help="Beams of the search; 1 is greedy.", min=1)] = None,
    config: Annotated[
        str, typer.Option(help="tiny, wide, small or base, trained here; or a model's name or folder.")
    ] = "tiny",
    vocab_size: Annotated[
        int | None, typer.Option(help="Tokens of a model trained from scratch.  [default: 8000]")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the students, comma-separated.")] = "1",
    rows: Annotated[
        str | None, typer.Option(help="Only these rows, comma-separated: tbt-2-2-2,twn-*")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each student.", min=1, rich_help_panel=_TRAINING)
    ] = None,
    teacher_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of the teacher; 0: --config is fine-tuned.", min=0, rich_help_panel=_TRAINING
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Batch size over all processes.", min=1, rich_help_panel=_TRAINING)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of the students.  [default: 4e-3 for tiny, wide, small; else 5e-4]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    teacher_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of the teacher.  [default: --learning-rate; else 2e-3 or 5e-4]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    save_every: Annotated[
        int, typer.Option(help="Steps between checkpoints.", min=1, rich_help_panel=_TRAINING)
    ] = 100,
    precision: Annotated[
        str, typer.Option("--matmul-precision", help=PRECISION_HELP, rich_help_panel=_TRAINING)
    ] = "highest",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be trained.")] = False,
    resume: Annotated[bool, typer.Option(help="Resume from what the folder holds.")] = True,
    json_path: JsonOption = None,
) -> None:
    """Reproduce a table or figure of the paper on your data, or an ablation of TBT's defaults.

    Trains one full-precision teacher, then every method of the table with every seed. Each finished row is
    written to rows/ and the table is updated. The command can be stopped at any time: run again, it resumes
    and ends with the same numbers. Tables in one folder share rows, and a table shows all rows with the same
    settings, regardless of --rows.

    Several processes: *torchrun --nproc-per-node 2 -m tbt_compile reproduce ...*

    Examples:

        tbt reproduce table3 --data DEMO --out results

        tbt reproduce defaults --data DEMO --rows "*-1-1-1" --out results

        tbt reproduce table1 --data my-data --config my-bart --teacher-steps 0 --seeds 1,2,3 --out results

        tbt reproduce table1 --dataset xsum --config facebook/bart-base --out xsum --dry-run
    """
    from tbt_compile.reproduce import Experiment
    from tbt_compile.reproduce import reproduce as run
    from tbt_compile.reproduce.estimate import estimate
    from tbt_compile.training import processes
    from tbt_compile.training.precision import matmul_precision

    experiment = Experiment(
        table=table,
        output=output,
        data=data,
        dataset=dataset,
        config=config,
        vocab_size=vocab_size,
        seeds=_numbers(seeds),
        rows=None if rows is None else tuple(rows.split(",")),
        steps=steps,
        teacher_steps=teacher_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        teacher_learning_rate=teacher_learning_rate,
        max_source_length=source_length,
        max_target_length=target_length,
        metric=metric,
        test_sentences=test_sentences,
        num_beams=num_beams,
        save_every=save_every,
        resume=resume,
    )
    if dry_run:
        with progress_bar("timing") as progress, matmul_precision(precision):
            works = estimate(experiment, progress)
        write_json([vars(work) for work in works], json_path)
        if str(json_path) != "-":
            _show_plan(works)
        return
    with progress_bar("starting") as progress, matmul_precision(precision):
        report = run(experiment, progress)
    if processes.is_first():
        write_json(report.rows, json_path)
        if str(json_path) != "-":
            _show_files(report.files)


def _numbers(text: str) -> tuple[int, ...]:
    from tbt_compile.errors import ReproduceError

    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise ReproduceError(
            f"--seeds {text!r}: expected comma-separated whole numbers, such as 1,2,3"
        ) from error


def _show_plan(works: list[PlannedWork]) -> None:
    from rich.table import Table

    table = Table(title="To be trained")
    for heading in ("what", "steps", "minutes"):
        table.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=True)
    for work in works:
        table.add_row(work.name, str(work.steps), "done" if work.done else f"{work.seconds / 60:.1f}")
    out.print(table)
    total = sum(work.seconds for work in works) / 3600
    out.print(f"About {total:.1f} hours of training on this machine, without generation.")


def _show_files(files: tuple[Path, ...]) -> None:
    for path in files:
        if path.suffix == ".md":
            out.print(path.read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    err.print(f"written: {', '.join(map(str, files))}", markup=False, highlight=False, soft_wrap=True)
