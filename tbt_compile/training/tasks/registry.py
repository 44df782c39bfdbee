"""All tasks, and the one of a model."""

from __future__ import annotations

from transformers import PreTrainedModel

from tbt_compile.training.settings import TrainingError
from tbt_compile.training.tasks.base import Task
from tbt_compile.training.tasks.classification import ClassificationTask
from tbt_compile.training.tasks.decoder import DecoderTask
from tbt_compile.training.tasks.encoder_decoder import EncoderDecoderTask
from tbt_compile.training.tasks.features import FeaturesTask

TASKS: tuple[Task, ...] = (EncoderDecoderTask(), FeaturesTask(), DecoderTask(), ClassificationTask())


def task_of(model: PreTrainedModel, role: str = "the") -> Task:
    """The task that a model is for.

    Args:
        model: a transformers model.
        role: what comes before its class in the message.

    Raises:
        TrainingError: it is of no kind that can be distilled.
    """
    for task in TASKS:
        if task.takes(model):
            task.check_model(model)
            return task
    raise TrainingError(
        f"{role} {type(model).__name__} cannot be distilled: expected a model that writes text (such as "
        "BART, T5, Llama or Whisper) or classifies; prepare others and train them in a loop of your own"
    )
