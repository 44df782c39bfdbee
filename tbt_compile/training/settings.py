"""What a training run can be asked to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tbt_compile.errors import TbtError


class TrainingError(TbtError):
    """A training run was asked for something that cannot be done."""


@dataclass(frozen=True)
class TrainSettings:
    """Optimization settings: AdamW with a one-cycle learning rate (linear warm-up, then a cosine down to
    zero).

    Attributes:
        epochs: passes over the data; `steps`, when given, counts instead.
        learning_rate: the peak; `rates` has what students and teachers of each size want.
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
