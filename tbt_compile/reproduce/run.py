"""A whole table or figure: the teacher, every student, scores, and the files that show them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.progress import Progress
from tbt_compile.reproduce import figures, plots
from tbt_compile.reproduce.cost import relative_flops
from tbt_compile.reproduce.defaults import find_method, find_table
from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.markdown import table_text
from tbt_compile.reproduce.paper import TEACHER, PaperTable
from tbt_compile.reproduce.plan import PlannedRow, plan_rows
from tbt_compile.reproduce.rows import Row, known_seeds, make_row, same_row, scores
from tbt_compile.reproduce.size import float_mib, size_mib
from tbt_compile.reproduce.task import Task, open_task
from tbt_compile.reproduce.teacher import make_teacher
from tbt_compile.storage.atomic_write import atomic_write
from tbt_compile.training import TrainingRun, processes
from tbt_compile.training.record import read_record
from tbt_compile.training.stages import fingerprint

FULL_PRECISION = "32-32-32"


@dataclass(frozen=True)
class Report:
    """What was made: the rows by their keys ("teacher", "tbt-2-2-2-seed1"), and the files that show them."""

    rows: dict[str, Row]
    files: tuple[Path, ...]


def reproduce(experiment: Experiment, progress: Progress | None = None) -> Report:
    """Make a table or figure, taking up whatever an earlier call left in the output folder.

    The table is written when the teacher is done and anew after every row. It shows all rows of the folder
    that have the same data, teacher and settings, also those that were not asked for this time or that
    another call trains meanwhile, and names those that are still to be trained. Under `torchrun` several
    processes train together.

    Raises:
        ReproduceError, MethodError, DataError, TrainingError: what is asked for cannot be made; the message
            says what to change.
    """
    processes.start()
    plots.require_matplotlib()  # rather now than after hours of training
    table = find_table(experiment.table)
    planned = plan_rows(table, experiment.seeds, experiment.rows)
    steps = _Steps(progress if processes.is_first() else None, len(planned) + 1)
    if processes.is_first():
        experiment.output.mkdir(parents=True, exist_ok=True)
    task = open_task(experiment)
    work = _Work(experiment, task, *make_teacher(experiment, task, steps.report), steps)
    rows = {TEACHER: work.teacher_row()}
    files = write_table(experiment, table, task, {**rows, **work.known_rows(table)}, planned)
    for row in planned:
        steps.next()
        rows[row.key] = work.student_row(row)
        files = write_table(experiment, table, task, {**rows, **work.known_rows(table)}, planned)
    if processes.is_first() and not table.columns:
        files = figures.make(experiment, task, work.tokenizer, steps.report)
    processes.wait()
    return Report(rows, files)


def write_table(
    experiment: Experiment, table: PaperTable, task: Task, rows: dict[str, Row], planned: Sequence[PlannedRow]
) -> tuple[Path, ...]:
    """Write the table of the rows that there are as Markdown, and their retention as a plot.

    Nothing is written for a figure, or by other processes than the first.
    """
    if not processes.is_first() or not table.columns:
        return ()
    missing = [row.key for row in planned if row.key not in rows]
    text = experiment.output / f"{table.name}.md"
    with atomic_write(text) as draft:
        draft.write_text(table_text(experiment, table, task, rows, missing), encoding="utf-8")
    return (text, *figures.retention(experiment, table, task, rows))


class _Steps:
    """Turns the progress of each row into that of the whole table."""

    def __init__(self, progress: Progress | None, count: int) -> None:
        self.progress, self.count, self.done = progress, count, 0

    def report(self, text: str, share: float) -> None:
        if self.progress is not None:
            self.progress(text, (self.done + share) / self.count)

    def next(self) -> None:
        self.done += 1


@dataclass(frozen=True)
class _Work:
    """What the rows of a table have in common: the teacher, its tokenizer, the data."""

    experiment: Experiment
    task: Task
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    steps: _Steps

    @cached_property
    def common(self) -> dict[str, Any]:
        """What every row depends on."""
        return {
            "config": self.experiment.config,
            "task": self.task.description,
            "teacher": fingerprint(self.teacher),
        }

    def asked(self, row: PlannedRow) -> dict[str, Any]:
        """Everything that the figures of a student depend on, but the code."""
        training = self.experiment.student_training(row.notation, row.seed).to_dict()
        return {"method": row.method, "notation": row.notation, "seed": row.seed, "training": training} | (
            self.common
        )

    def known_rows(self, table: PaperTable) -> dict[str, Row]:
        """Those of the table's students, of any seed, that this call or another has measured in this way."""
        output = self.experiment.output
        seeds = known_seeds(output) if self.experiment.resume else []
        planned = plan_rows(table, seeds) if seeds else []
        found = {row.key: same_row(output, row.key, self.asked(row)) for row in planned}
        return {key: row for key, row in found.items() if row is not None}

    def teacher_row(self) -> Row:
        """The scores of the full-precision model, and of doing without one."""
        trained = self.experiment.teacher_steps != 0
        asked = {
            "method": TEACHER,
            "notation": FULL_PRECISION,
            "seed": self.experiment.teacher_seed,
            "training": self.experiment.teacher_training.to_dict() if trained else None,
            **self.common,
        }

        def measure() -> dict[str, Any]:
            return {
                "parameters": sum(parameter.numel() for parameter in self.teacher.parameters()),
                "outcome": read_record(self.experiment.output / "teacher").get("outcome"),
                "scores": scores(self.teacher, self.tokenizer, self.task, self.steps.report, "teacher"),
                "floors": self.task.trivial_baselines,
                "size_mib": float_mib(self.teacher),
                "relative_flops": 1.0,
            }

        return make_row(self.experiment.output, TEACHER, asked, self.experiment.resume, measure)

    def student_row(self, row: PlannedRow) -> Row:
        """Train a student, or take it up, and measure it."""
        asked, method, task = self.asked(row), find_method(row.method), self.task
        title = f"{method.title} {row.notation} seed {row.seed}"

        def measure() -> dict[str, Any]:
            folder = student_folder(self.experiment, row)
            training = self.experiment.student_training(row.notation, row.seed)
            student = method.train_student(
                copy.deepcopy(self.teacher.cpu()),  # a method may change how it computes attention
                row.notation,
                task.corpus(self.tokenizer),
                TrainingRun(folder, training, self.experiment.resume, self.steps.report, title),
            )
            record = read_record(folder)
            trained = record.get("asked", {})
            return {
                "title": method.title,
                "citation": method.citation,
                "recipe": trained.get("recipe"),
                "loss": {name: trained[name] for name in ("weights", "terms", "layers") if name in trained},
                "outcome": record.get("outcome"),
                "scores": scores(student, self.tokenizer, task, self.steps.report, title),
                "size_mib": size_mib(student),
                "relative_flops": relative_flops(self.teacher, student, *mean_lengths(task, self.tokenizer)),
            }

        return make_row(self.experiment.output, row.key, asked, self.experiment.resume, measure)


def student_folder(experiment: Experiment, row: PlannedRow) -> Path:
    """Where a student is trained and kept."""
    return experiment.output / "students" / row.key


def mean_lengths(task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Mean number of tokens of the sources and of the targets of the test pairs, as they are cut."""

    def mean(texts: list[str], longest: int) -> int:
        rows = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
        return round(sum(len(row) for row in rows) / len(rows))

    return (
        mean([pair.source for pair in task.test], task.lengths.source),
        mean([pair.target for pair in task.test], task.lengths.target),
    )
