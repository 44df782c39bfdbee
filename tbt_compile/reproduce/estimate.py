"""Estimate of the training time of an experiment, from a few timed steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import tbt_compile
from tbt_compile.data.batches import Corpus
from tbt_compile.progress import Progress
from tbt_compile.reproduce.experiment import Experiment
from tbt_compile.reproduce.find import find_table
from tbt_compile.reproduce.plan import check_settings, plan_rows, row_settings
from tbt_compile.reproduce.rows import read_row
from tbt_compile.reproduce.task import Task, open_task
from tbt_compile.reproduce.teacher import open_model
from tbt_compile.training import LossWeights, TrainSettings, distillation_terms, processes
from tbt_compile.training.order import POOL, TrainingOrder
from tbt_compile.training.tasks import task_of
from tbt_compile.training.trainers import both_outputs

WARM_UP, TIMED_STEPS = 1, 3
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PlannedWork:
    """One model to train.

    Attributes:
        name: "teacher" or the key of a student.
        steps: optimizer steps.
        seconds: estimated training time; 0 if it is done.
        done: whether the output folder has its figures.
    """

    name: str
    steps: int
    seconds: float
    done: bool


def estimate(experiment: Experiment, progress: Progress | None = None) -> list[PlannedWork]:
    """Estimate the training time of every model of an experiment, without training any.

    Times a few steps on batches of the data, for the teacher and for plain distillation at each notation.
    Methods with other losses take more or less time; generation is not included.

    Raises:
        ReproduceError, MethodError, DataError: see `reproduce`.
    """
    planned = plan_rows(find_table(experiment.table), experiment.seeds, experiment.rows)
    check_settings(experiment, planned)
    task = open_task(experiment)
    model, tokenizer = open_model(experiment, task)
    timer = _Timer(model, _batches(task, tokenizer, experiment.teacher_training.batch_size))
    works = []
    if experiment.teacher_steps != 0:
        settings = experiment.teacher_training
        works.append(_work(experiment, "teacher", settings, len(task.data.train), timer.teacher()))
    times: dict[tuple[str, int], float] = {}
    for row in planned:
        settings = row_settings(experiment, row, len(task.data.train))
        kind = row.notation, settings.batch_size
        if kind not in times:
            if progress is not None:
                progress(f"timing {row.notation}", len(times) / len(planned))
            times[kind] = timer.student(*kind)
        works.append(_work(experiment, row.key, settings, len(task.data.train), times[kind]))
    return works


def _work(
    experiment: Experiment, key: str, settings: TrainSettings, examples: int, seconds: float
) -> PlannedWork:
    steps = settings.total_steps(examples)
    done = experiment.resume and read_row(experiment.output, key) is not None
    return PlannedWork(key, steps, 0.0 if done else steps * seconds, done)


def _batches(task: Task, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> list[Batch]:
    """A few training batches, each of texts of similar length."""
    corpus = Corpus(task.data.train[: POOL * batch_size], tokenizer, task.lengths)
    dataset, collate = corpus.dataset(), corpus.collator()
    order = iter(TrainingOrder(dataset.lengths, batch_size, POOL, seed=0))
    return [
        collate([dataset[row] for row in islice(order, batch_size)]) for _ in range(WARM_UP + TIMED_STEPS)
    ]


class _Timer:
    """Times training steps: the mean after warm-up."""

    def __init__(self, model: PreTrainedModel, batches: list[Batch]) -> None:
        device = processes.device()
        self.model = model.to(device)
        self.batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]

    def teacher(self) -> float:
        """Seconds per step of teacher training."""
        model = copy.deepcopy(self.model).train()
        return self._mean(lambda batch: model(**batch).loss.backward())

    def student(self, notation: str, batch_size: int) -> float:
        """Seconds per step of plain distillation.

        Args:
            notation: E-W-A bits.
            batch_size: that of the teacher, or less.
        """
        student = (
            tbt_compile.prepare(copy.deepcopy(self.model).cpu(), notation).to(processes.device()).train()
        )
        weights, teacher, task = LossWeights(), self.model.eval(), task_of(self.model)

        def step(whole: Batch) -> None:
            batch = {name: tensor[:batch_size] for name, tensor in whole.items()}
            outputs, target = both_outputs(task, student, teacher, batch, weights, output_hidden_states=True)
            terms = distillation_terms(outputs, target, batch, weights, task)
            terms.weighted(weights).backward()

        return self._mean(step)

    def _mean(self, step: Callable[[Batch], None]) -> float:
        for batch in self.batches[:WARM_UP]:
            step(batch)
        start = time.perf_counter()
        for batch in self.batches[WARM_UP:]:
            step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / TIMED_STEPS
