"""The demo from data to final table, in one folder and resumable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.bench.conditions import conditions
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.demo.rows import DemoRow, Measured, Subject, measure
from tbt_compile.demo.task import LENGTHS, DemoTask, build_task
from tbt_compile.evaluation import RougeScores
from tbt_compile.progress import Progress
from tbt_compile.runtime.builds import library_name
from tbt_compile.storage import model_folder
from tbt_compile.storage.atomic_write import save_json
from tbt_compile.training import (
    LossWeights,
    ModelSize,
    TrainingRun,
    TrainSettings,
    distill,
    new_model,
    train_teacher,
)
from tbt_compile.training.stages import load_teacher


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo; the defaults take five to eight minutes on two cores.

    Attributes:
        train_items, test_items: news items of each split.
        seed: of the data and the teacher's initial weights.
        size: of the models.
        teacher: optimization of the teacher.
        students: recipe and optimization of each student, in order.
        weights: of the distillation loss terms.
        target: CPU to compile for.
        num_threads: of the compiled models; None: the runtime's default.
    """

    train_items: int = 40_000
    test_items: int = 500
    seed: int = 1
    size: str | ModelSize = "tiny"
    teacher: TrainSettings = field(default_factory=lambda: TrainSettings(steps=550, save_every=100))
    # The first student starts from the teacher's weights, each later one from those of the student before.
    students: tuple[tuple[str, TrainSettings], ...] = (
        ("2-2-2", TrainSettings(steps=500, batch_size=16, learning_rate=4e-3)),
        # In batches of 16 the same examples are worth 10 ROUGE-1 more at 1-1-1 than in batches of 64.
        ("1-1-1", TrainSettings(steps=1000, batch_size=16, learning_rate=4e-3)),
    )
    weights: LossWeights = field(default_factory=LossWeights)
    target: str = "host"
    num_threads: int | None = None


@dataclass(frozen=True)
class DemoResult:
    """The demo's table, the trivial baselines, sample texts, and the machine it ran on."""

    rows: tuple[DemoRow, ...]
    lead_copy: RougeScores
    constant: RougeScores
    samples: tuple[dict[str, str], ...]
    conditions: dict[str, Any]


# Share of the total time per stage, for the progress bar.
_SHARES = {"data": 0.02, "teacher": 0.14, "teacher row": 0.02, "student": 0.32, "student rows": 0.09}


def run(
    output: str | Path,
    resume: bool = True,
    progress: Progress | None = None,
    settings: DemoSettings | None = None,
) -> DemoResult:
    """Train, distil, freeze, lower and evaluate, saving every stage in `output` as it finishes.

    Args:
        output: folder for the data, the tokenizer, one folder per model, rows/ and results.json.
        resume: resume from what the folder holds; otherwise start over.
        progress: called with a description and the share done, from 0 to 1.
        settings: None: the defaults.

    Returns:
        The table, baselines and samples.

    Raises:
        TrainingError: the folder holds a demo with other settings.
        FormatError: it holds something else where a model is to be saved.
    """
    settings, output = settings or DemoSettings(), Path(output)
    for recipe, _ in settings.students:
        for name in (f"packed-{recipe}", f"compiled-{recipe}"):
            model_folder.require_replaceable(output / name)
    if not resume:
        for name in ("teacher", *(row for recipe, _ in settings.students for row in _student_names(recipe))):
            (output / "rows" / f"{name}.json").unlink(missing_ok=True)
    stages = _Stages(progress)
    stages.report("writing news items", 0.0)
    task = build_task(output, settings.train_items, settings.test_items, settings.seed, resume)
    stages.next("data")
    model = new_model(settings.size, task.tokenizer, LENGTHS.longest, settings.seed)
    training_run = TrainingRun(output / "teacher", settings.teacher, resume, stages.report)
    teacher = train_teacher(model, task.corpus, training_run)
    stages.next("teacher")
    rows = _rows_of(output, ("teacher",), lambda: [_teacher_row(teacher, task, output, stages.report)])
    stages.next("teacher row")
    start = None
    for recipe, training in settings.students:
        training_run = TrainingRun(output / f"student-{recipe}", training, resume, stages.report)
        student = distill(teacher, recipe, task.corpus, training_run, objective=settings.weights, start=start)
        start = load_teacher(training_run.folder)
        stages.next("student")
        rows += _rows_of(
            output,
            _student_names(recipe),
            partial(_student_rows, recipe, student, task, output, settings, stages.report),
        )
        stages.next("student rows")
    return _finish(output, rows, task)


class _Stages:
    """Converts the progress of each stage into that of the whole demo.

    A stage may have several parts that each count from 0; the total then waits instead of going back.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.done, self.ahead = progress, 0.0, _SHARES["data"]
        self.furthest = 0.0
        self.order = list(_SHARES)

    def report(self, text: str, share: float) -> None:
        self.furthest = min(1.0, max(self.furthest, self.done + share * self.ahead))
        if self.progress is not None:
            self.progress(text, self.furthest)

    def next(self, finished: str) -> None:
        self.done += _SHARES[finished]
        following = self.order.index(finished) + 1
        self.ahead = _SHARES[self.order[following] if following < len(self.order) else "student"]


def _student_names(recipe: str) -> tuple[str, str]:
    return f"{recipe}-torch", f"{recipe}-compiled"


def _rows_of(
    output: Path, names: tuple[str, ...], make: Callable[[], list[Measured]]
) -> list[dict[str, Any]]:
    """Read the rows from their files, or measure them with `make` and write them."""
    files = [output / "rows" / f"{name}.json" for name in names]
    if not all(file.is_file() for file in files):
        (output / "rows").mkdir(parents=True, exist_ok=True)
        for file, measured in zip(files, make(), strict=True):
            save_json(file, {"row": measured.row.to_dict(), "texts": measured.greedy.texts})
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _teacher_row(teacher: PreTrainedModel, task: DemoTask, output: Path, progress: Progress) -> Measured:
    subject = Subject("teacher", "torch", teacher, output / "teacher" / "model.safetensors")
    return measure(subject, task, with_beam=False, progress=progress)


def _student_rows(
    recipe: str,
    student: PreTrainedModel,
    task: DemoTask,
    output: Path,
    settings: DemoSettings,
    progress: Progress,
) -> list[Measured]:
    subject = Subject(recipe, "torch", student, output / f"student-{recipe}" / "model.safetensors")
    eager = measure(subject, task, with_beam=True, progress=progress)
    progress(f"{recipe}: packing and compiling", 0.5)
    frozen = tbt_compile.freeze(student)
    frozen.save(output / f"packed-{recipe}", tokenizer=task.tokenizer)
    folder = output / f"compiled-{recipe}"
    tbt_compile.lower(frozen, settings.target, settings.num_threads).save(folder, tokenizer=task.tokenizer)
    compiled = tbt_compile.load(folder, num_threads=settings.num_threads)
    weights = folder / model_folder.KINDS["compiled"].tensors
    subject = Subject(
        recipe, "compiled", compiled, weights, library=folder / library_name(parse_target(settings.target))
    )
    return [eager, measure(subject, task, with_beam=True, reference=eager, progress=progress)]


def _finish(output: Path, rows: list[dict[str, Any]], task: DemoTask) -> DemoResult:
    samples = tuple(
        {"item": pair.source, "summary": pair.target}
        | {f"{row['row']['name']}, {row['row']['engine']}": row["texts"][index] for row in rows}
        for index, pair in enumerate(task.data.test[:3])
    )
    result = DemoResult(
        rows=tuple(DemoRow(**row["row"]) for row in rows),
        lead_copy=task.lead_copy,
        constant=task.constant,
        samples=samples,
        conditions=conditions(),
    )
    save_json(output / "results.json", result_to_dict(result))
    return result


def result_to_dict(result: DemoResult) -> dict[str, Any]:
    """The whole result as JSON-ready values."""
    return {
        "rows": [row.to_dict() for row in result.rows],
        "lead_copy": vars(result.lead_copy),
        "constant": vars(result.constant),
        "samples": list(result.samples),
        "conditions": result.conditions,
    }
