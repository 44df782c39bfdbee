"""What a training run can be asked to do: optimization, learning rates, weights of the loss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tbt_compile.errors import TbtError
from tbt_compile.recipe import Recipe

PAPER_RATE = 5e-4
"""Of BART-base and mBART-large with 1 and 2 bit activations (Liu et al. 2023, section 3.1)."""
_SMALL = ("tiny", "small")


class TrainingError(TbtError):
    """A training run was asked for something that cannot be done."""


@dataclass(frozen=True)
class TrainSettings:
    """Optimization settings: AdamW with a one-cycle learning rate (linear warm-up, then a cosine down to
    zero).

    Attributes:
        epochs: passes over the data; `steps`, when given, counts instead.
        learning_rate: the peak; see `teacher_rate` and `student_rate`.
        warmup_share: share of the steps in which the learning rate rises.
        save_every: steps between checkpoints, from which an interrupted run goes on.
        seed: of the order of the data and of everything random in training.
    """

    epochs: float = 3.0
    steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "learning_rate", "save_every")
        for name in positive if self.steps is None else (*positive, "steps"):
            if getattr(self, name) <= 0:
                raise TrainingError(
                    f"training setting {name}={getattr(self, name)!r}: expected a number above zero"
                )
        if not 0 <= self.warmup_share < 1:
            raise TrainingError(
                f"training setting warmup_share={self.warmup_share!r}: expected 0 or more, below 1"
            )

    def total_steps(self, examples: int) -> int:
        """Optimizer steps for a training set of that many examples."""
        return self.steps or math.ceil(self.epochs * examples / self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts in distillation; a term of weight 0 is not computed.

    Attributes:
        logits: cross-entropy between the teacher's and the student's distributions (the paper's soft labels).
        labels: cross-entropy with the reference text.
        hidden: mean squared error of the hidden states, embeddings included, mean over all layers.
        attention: mean squared error of the attention maps, mean over all layers.
        temperature: both distributions of the `logits` term are softened by it.
    """

    logits: float = 1.0
    labels: float = 0.0
    hidden: float = 1.0
    attention: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        values = asdict(self)
        for name, value in values.items():
            if value < 0 or (name == "temperature" and value == 0):
                raise TrainingError(f"loss weight {name}={value!r}: expected a number that is not negative")
        if not any(value for name, value in values.items() if name != "temperature"):
            raise TrainingError(
                "every loss weight is 0: expected at least one of logits, labels, hidden, attention"
            )


def teacher_rate(model: str) -> float:
    """The learning rate of a full-precision model, one of the sizes trained from nothing or any other.

    >>> teacher_rate("tiny"), teacher_rate("facebook/bart-base")
    (0.002, 0.0005)
    """
    return 2e-3 if model in _SMALL else PAPER_RATE


def student_rate(model: str, recipe: str | Recipe, given: float | None = None) -> float:
    """The learning rate of a student: `given`, or what small sizes or the paper's models want at few bits.

    8-bit activations halve it, as in the paper. For small sizes twice the teacher's rate was best or close to
    it on two data sets, at both one and two bits.

    >>> student_rate("tiny", "2-2-2"), student_rate("tiny", "2-2-8"), student_rate("my-bart", "1-1-1")
    (0.004, 0.002, 0.0005)
    """
    usual = 4e-3 if model in _SMALL else PAPER_RATE
    rate = usual if given is None else given
    return rate / 2 if Recipe.parse(recipe).activation_bits == 8 else rate
