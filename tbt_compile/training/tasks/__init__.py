"""What training knows about each kind of model."""

from tbt_compile.training.tasks.base import Inputs, Stack, Task
from tbt_compile.training.tasks.classification import ClassificationTask
from tbt_compile.training.tasks.decoder import DecoderTask
from tbt_compile.training.tasks.encoder_decoder import EncoderDecoderTask
from tbt_compile.training.tasks.features import FeaturesTask
from tbt_compile.training.tasks.registry import TASKS, task_of

__all__ = [
    "TASKS",
    "ClassificationTask",
    "DecoderTask",
    "EncoderDecoderTask",
    "FeaturesTask",
    "Inputs",
    "Stack",
    "Task",
    "task_of",
]
