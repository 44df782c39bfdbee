"""`reproduce`: train teacher and students, score them, and write the table or figure."""

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
from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.find import find_method, find_table
from tbt_compile.reproduce.markdown import table_text
from tbt_compile.reproduce.paper import TEACHER, PaperTable
from tbt_compile.reproduce.plan import PlannedRow, check_settings, plan_rows
from tbt_compile.reproduce.rows import Row, known_seeds, make_row, same_row, scores
from tbt_compile.reproduce.size import float_mib, size_mib
from tbt_compile.reproduce.task import Task, open_task
from tbt_compile.reproduce.teacher import make_teacher
from tbt_compile.storage.atomic_write import atomic_write
from tbt_compile.storage.os_errors import writing
from tbt_compile.training import TrainingRun, processes
from tbt_compile.training.precision import recorded_precision
from tbt_compile.training.record import read_record
from tbt_compile.training.stages import fingerprint

FULL_PRECISION = "32-32-32"


@dataclass(frozen=True)
class Report:
    """The result: rows by key ("teacher", "tbt-2-2-2-seed1"), and the table and figure files."""

    rows: dict[str, Row]
    files: tuple[Path, ...]


def reproduce(experiment: Experiment, progress: Progress | None = None) -> Report:
    """Make a table or figure, resuming whatever an earlier call left in the output folder.

    The table is written when the teacher is done and updated after every row. It shows all rows in the folder
    with the same data, teacher and settings, including rows of earlier or concurrent calls, and lists those
    still to be trained. Under `torchrun` several processes train together.

    Raises:
        ReproduceError: the experiment is invalid, or the folder holds one with other settings.
        MethodError: a method is unknown or does not support its bits.
        DataError: the data cannot be read.
        TrainingError: the settings are invalid, or the folder holds a run with other settings.
    """
    processes.start()
    plots.require_matplotlib()  # fail now, not after hours of training
    table = find_table(experiment.table)
    planned = plan_rows(table, experiment.seeds, experiment.rows)
    check_settings(experiment, planned)
    steps = _Steps(progress if processes.is_first() else None, len(planned) + 1)
    if processes.is_first():
        with writing(experiment.output):
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
        files = figures.figure2(experiment, task, work.tokenizer, steps.report)
    processes.wait()
    return Report(rows, files)


def write_table(
    experiment: Experiment, table: PaperTable, task: Task, rows: dict[str, Row], planned: Sequence[PlannedRow]
) -> tuple[Path, ...]:
    """Write the table as Markdown and its retention as a plot; the first process does, tables only.

    Args:
        experiment: its output folder gets the files.
        table: to write; a figure has no columns and is skipped.
        task: the data and the search.
        rows: the figures so far, by key.
        planned: all rows of this call; those without figures are listed as missing.

    Returns:
        The files.
    """
    if not processes.is_first() or not table.columns:
        return ()
    missing = [row.key for row in planned if row.key not in rows]
    text = experiment.output / f"{table.name}.md"
    with atomic_write(text) as draft:
        draft.write_text(table_text(experiment, table, task, rows, missing), encoding="utf-8")
    return (text, *figures.retention(experiment, table, task, rows))


class _Steps:
    """Converts the progress of each row into that of the whole table."""

    def __init__(self, progress: Progress | None, count: int) -> None:
        self.progress, self.count, self.done = progress, count, 0

    def report(self, text: str, share: float) -> None:
        if self.progress is not None:
            self.progress(text, (self.done + share) / self.count)

    def next(self) -> None:
        self.done += 1


@dataclass(frozen=True)
class _Work:
    """The state that the rows of a table share: experiment, data, teacher and tokenizer."""

    experiment: Experiment
    task: Task
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    steps: _Steps

    @cached_property
    def common(self) -> dict[str, Any]:
        """The settings that every row depends on."""
        return {
            "config": self.experiment.config,
            "task": self.task.description,
            "teacher": fingerprint(self.teacher),
            **recorded_precision(),
        }

    def asked(self, row: PlannedRow) -> dict[str, Any]:
        """Everything except the code that the figures of a student depend on."""
        training = self.experiment.student_training(row.notation, row.seed).to_dict()
        return {"method": row.method, "notation": row.notation, "seed": row.seed, "training": training} | (
            self.common
        )

    def known_rows(self, table: PaperTable) -> dict[str, Row]:
        """The table's students of any seed that this or another call measured with the same settings."""
        output = self.experiment.output
        seeds = known_seeds(output) if self.experiment.resume else []
        planned = plan_rows(table, seeds) if seeds else []
        found = {row.key: same_row(output, row.key, self.asked(row)) for row in planned}
        return {key: row for key, row in found.items() if row is not None}

    def teacher_row(self) -> Row:
        """Measure the teacher and the trivial baselines."""
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
        """Train or resume a student and measure it."""
        asked, method, task = self.asked(row), find_method(row.method), self.task
        title = f"{method.title} {row.notation} seed {row.seed}"

        def measure() -> dict[str, Any]:
            folder = student_folder(self.experiment, row)
            training = self.experiment.student_training(row.notation, row.seed)
            student = method.train_student(
                copy.deepcopy(self.teacher.cpu()),  # a method may switch its attention implementation
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
                "settings": trained.get("settings"),
                "outcome": record.get("outcome"),
                "scores": scores(student, self.tokenizer, task, self.steps.report, title),
                "size_mib": size_mib(student),
                "relative_flops": relative_flops(self.teacher, student, *mean_lengths(task, self.tokenizer)),
            }

        return make_row(self.experiment.output, row.key, asked, self.experiment.resume, measure)


def student_folder(experiment: Experiment, row: PlannedRow) -> Path:
    """The folder of a student."""
    return experiment.output / "students" / row.key


def mean_lengths(task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Mean tokens of the truncated sources and targets of the test pairs."""

    def mean(texts: list[str], longest: int) -> int:
        rows = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
        return round(sum(len(row) for row in rows) / len(rows))

    return (
        mean([pair.source for pair in task.test], task.lengths.source),
        mean([pair.target for pair in task.test], task.lengths.target),
    )
