"""How long an experiment will take here, from a few steps of training."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

import tbt_compile
from tbt_compile.data import PairCollator, PairDataset
from tbt_compile.evaluation.generation import Progress
from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.paper import paper_table
from tbt_compile.reproduce.plan import PlannedRow, plan_rows
from tbt_compile.reproduce.rows import read_row
from tbt_compile.reproduce.task import open_task
from tbt_compile.reproduce.teacher import open_model
from tbt_compile.training import LossWeights, TrainSettings, distillation_terms, processes

TIMED_STEPS = 3


@dataclass(frozen=True)
class PlannedWork:
    """One line of a plan: what, how many steps, about how many seconds of training; `done` needs none."""

    name: str
    steps: int
    seconds: float
    done: bool


def estimate(experiment: Experiment, progress: Progress | None = None) -> list[PlannedWork]:
    """The plan of an experiment with the time of its training; nothing is trained.

    The time of a step is that of a few on one batch of the data, for the teacher and for plain distillation
    at each notation: methods with other losses take more or less, and generation comes on top.

    Raises:
        ReproduceError, MethodError, DataError: as `reproduce`.
    """
    planned = plan_rows(paper_table(experiment.table), experiment.seeds, experiment.rows)
    task = open_task(experiment)
    model, tokenizer = open_model(experiment, task)
    batch_size = experiment.teacher_training.batch_size // processes.count()
    pairs = task.data.train[:batch_size]
    dataset = PairDataset(pairs, tokenizer, task.max_source_length, task.max_target_length)
    batch = PairCollator(int(tokenizer.pad_token_id or 0))([dataset[row] for row in range(len(dataset))])
    timer = _Timer(model, batch)
    works = []
    if experiment.teacher_steps != 0:
        settings = experiment.teacher_training
        works.append(_work(experiment, "teacher", settings, len(task.data.train), timer.teacher()))
    times: dict[str, float] = {}
    for row in planned:
        if row.notation not in times:
            if progress is not None:
                progress(f"timing {row.notation}", len(times) / len(planned))
            times[row.notation] = timer.student(row.notation)
        works.append(_student(experiment, row, len(task.data.train), times[row.notation]))
    return works


def _student(experiment: Experiment, row: PlannedRow, examples: int, seconds: float) -> PlannedWork:
    settings = experiment.student_training(row.notation, row.seed)
    return _work(experiment, row.key, settings, examples, seconds)


def _work(
    experiment: Experiment, key: str, settings: TrainSettings, examples: int, seconds: float
) -> PlannedWork:
    steps = settings.total_steps(examples)
    done = experiment.resume and read_row(experiment.output, key) is not None
    return PlannedWork(key, steps, 0.0 if done else steps * seconds, done)


class _Timer:
    """Median time of a training step on one batch."""

    def __init__(self, model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
        device = processes.device()
        self.model = model.to(device)
        self.batch = {name: tensor.to(device) for name, tensor in batch.items()}

    def teacher(self) -> float:
        model = copy.deepcopy(self.model).train()
        return self._median(lambda: model(**self.batch).loss.backward())

    def student(self, notation: str) -> float:
        if "-" not in notation or not notation.replace("-", "").isdigit():
            return self.teacher()  # a method without bits trains the model as it is
        student = (
            tbt_compile.prepare(copy.deepcopy(self.model).cpu(), notation).to(processes.device()).train()
        )
        weights, teacher = LossWeights(), self.model.eval()

        def step() -> None:
            outputs = student(**self.batch, output_hidden_states=True)
            with torch.no_grad():
                target = teacher(**self.batch, output_hidden_states=True)
            masks = self.batch["labels"], self.batch["attention_mask"]
            distillation_terms(outputs, target, *masks, weights).weighted(weights).backward()

        return self._median(step)

    def _median(self, step: Callable[[], None]) -> float:
        step()
        times = []
        for _ in range(TIMED_STEPS):
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return sorted(times)[TIMED_STEPS // 2]
