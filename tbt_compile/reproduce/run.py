"""A whole table or figure: the teacher, every student, scores, and the files that show them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tbt_compile.evaluation.generation import Progress
from tbt_compile.reproduce import figures, plots
from tbt_compile.reproduce.cost import relative_flops
from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.layout import table_text
from tbt_compile.reproduce.paper import TEACHER, PaperTable, paper_table
from tbt_compile.reproduce.plan import PlannedRow, plan_rows
from tbt_compile.reproduce.rows import Row, make_row, scores
from tbt_compile.reproduce.size import float_mib, size_mib
from tbt_compile.reproduce.task import Task, open_task
from tbt_compile.reproduce.teacher import make_teacher
from tbt_compile.training import processes
from tbt_compile.training.methods import get_method
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

    Under `torchrun` several processes train together. The table is written anew after every row.

    Raises:
        ReproduceError, MethodError, DataError, TrainingError: what is asked for cannot be made; the message
            says what to change.
    """
    processes.start()
    plots.require_matplotlib()  # rather now than after hours of training
    table = paper_table(experiment.table)
    planned = plan_rows(table, experiment.seeds, experiment.rows)
    steps = _Steps(progress if processes.is_first() else None, len(planned) + 1)
    if processes.is_first():
        experiment.output.mkdir(parents=True, exist_ok=True)
    task = open_task(experiment)
    teacher, tokenizer = make_teacher(experiment, task, steps.report)
    rows = {TEACHER: _teacher_row(experiment, task, teacher, tokenizer, steps)}
    files: tuple[Path, ...] = ()
    for row in planned:
        steps.next()
        rows[row.key] = _student_row(experiment, task, row, teacher, tokenizer, steps)
        if processes.is_first() and table.columns:
            files = write_table(experiment, table, task, rows)
    if processes.is_first() and not table.columns:
        files = figures.make(experiment, task, tokenizer, steps.report)
    processes.wait()
    return Report(rows, files)


def write_table(
    experiment: Experiment, table: PaperTable, task: Task, rows: dict[str, Row]
) -> tuple[Path, ...]:
    """Write the table of the rows that there are as Markdown, and their retention as a plot."""
    text = experiment.output / f"{table.name}.md"
    draft = text.with_suffix(".md.part")
    draft.write_text(table_text(experiment, table, task, rows), encoding="utf-8")
    draft.replace(text)
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


def _teacher_row(
    experiment: Experiment,
    task: Task,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    steps: _Steps,
) -> Row:
    trained = experiment.teacher_steps != 0
    asked = {
        "method": TEACHER,
        "notation": FULL_PRECISION,
        "seed": experiment.teacher_seed,
        "config": experiment.config,
        "training": experiment.teacher_training.to_dict() if trained else None,
        "task": task.description,
        "teacher": fingerprint(teacher),
    }

    def measure() -> dict[str, Any]:
        return {
            "parameters": sum(parameter.numel() for parameter in teacher.parameters()),
            "outcome": read_record(experiment.output / "teacher").get("outcome"),
            "scores": scores(teacher, tokenizer, task, steps.report, "teacher"),
            "floors": task.floors,
            "size_mib": float_mib(teacher),
            "relative_flops": 1.0,
        }

    return make_row(experiment.output, TEACHER, asked, experiment.resume, measure)


def _student_row(
    experiment: Experiment,
    task: Task,
    row: PlannedRow,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    steps: _Steps,
) -> Row:
    method = get_method(row.method)
    training = experiment.student_training(row.notation, row.seed)
    asked = {
        "method": row.method,
        "notation": row.notation,
        "seed": row.seed,
        "config": experiment.config,
        "training": training.to_dict(),
        "task": task.description,
        "teacher": fingerprint(teacher),
    }
    title = f"{method.title} {row.notation} seed {row.seed}"

    def measure() -> dict[str, Any]:
        folder = student_folder(experiment, row)
        student = method.train_student(
            copy.deepcopy(teacher.cpu()),  # a method may change how it computes attention
            row.notation,
            task.data.train,
            tokenizer,
            folder,
            max_source_length=task.max_source_length,
            max_target_length=task.max_target_length,
            settings=training,
            resume=experiment.resume,
            progress=steps.report,
            title=title,
        )
        record = read_record(folder)
        return {
            "title": method.title,
            "citation": method.citation,
            "recipe": record.get("asked", {}).get("recipe"),
            "outcome": record.get("outcome"),
            "scores": scores(student, tokenizer, task, steps.report, title),
            "size_mib": size_mib(student),
            "relative_flops": relative_flops(teacher, student, *mean_lengths(task, tokenizer)),
        }

    return make_row(experiment.output, row.key, asked, experiment.resume, measure)


def student_folder(experiment: Experiment, row: PlannedRow) -> Path:
    """Where a student is trained and kept."""
    return experiment.output / "students" / row.key


def mean_lengths(task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Mean number of tokens of the sources and of the targets of the test pairs, as they are cut."""

    def mean(texts: list[str], longest: int) -> int:
        rows = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
        return round(sum(len(row) for row in rows) / len(rows))

    return (
        mean([pair.source for pair in task.test], task.max_source_length),
        mean([pair.target for pair in task.test], task.max_target_length),
    )
