"""Settings of a training run: optimization, learning rates, weights of the loss terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from tbt_compile.errors import TbtError
from tbt_compile.recipe import Recipe

PAPER_RATE = 5e-4
"""Learning rate of BART-base and mBART-large with 1- and 2-bit activations (Liu et al. 2023, section 3.1)."""
SEEDS = 2**32
"""The seeds that NumPy takes, from 0 on."""
_SMALL = ("tiny", "wide", "small")
_LATER_SETTINGS = ("decay_share", "quantization_warmup", "soft_weights", "average")
_LATER = ("reverse", "relations", "layers")
_TERMS = ("logits", "labels", "hidden", "attention", "reverse", "relations")
T = TypeVar("T")


class TrainingError(TbtError):
    """The settings, models or folder of a training run are invalid."""


@dataclass(frozen=True)
class TrainSettings:
    """Optimization settings: AdamW with a linear warm-up and a cosine decay to zero.

    Attributes:
        epochs: passes over the data; unused if `steps` is given.
        steps: optimizer steps; None derives them from `epochs`.
        batch_size: examples per step, over all processes.
        learning_rate: the peak; see `teacher_rate` and `student_rate`.
        warmup_share: warm-up steps as a share of all steps.
        weight_decay: of AdamW.
        decay_share: the part of all steps that have weight decay.
        quantization_warmup: the part of all steps over which values go over to their levels,
            `x + share (Q(x) - x)`; 0: they are quantized from the first step.
        soft_weights: the part of all steps in which weights are means of their levels that harden, see
            `SoftLevels`.
        average: the student is the exponential moving average of its steps with this decay; 0: the last step.
        max_grad_norm: gradients are clipped to this norm.
        save_every: steps between checkpoints.
        seed: of the data order and of everything random in training.
    """

    epochs: float = 3.0
    steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    decay_share: float = 1.0
    quantization_warmup: float = 0.0
    soft_weights: float = 0.0
    average: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "learning_rate", "save_every")
        for name in positive if self.steps is None else (*positive, "steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(
                    f"training setting {name}={getattr(self, name)!r}: expected a number above zero"
                )
        for name in ("weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise TrainingError(
                    f"training setting {name}={getattr(self, name)!r}: expected a number that is not negative"
                )
        if not 0 <= self.seed < SEEDS:
            raise TrainingError(f"training setting seed={self.seed!r}: expected 0 or more, below 2**32")
        for name in ("warmup_share", "quantization_warmup", "soft_weights", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(
                    f"training setting {name}={getattr(self, name)!r}: expected 0 or more, below 1"
                )
        if not 0 < self.decay_share <= 1:
            raise TrainingError(
                f"training setting decay_share={self.decay_share!r}: expected a number above 0, at most 1"
            )
        if self.quantization_warmup and self.soft_weights:
            raise TrainingError(
                "training settings quantization_warmup and soft_weights: both relax the weights; choose one"
            )

    def total_steps(self, examples: int) -> int:
        """Optimizer steps over a training set of `examples`."""
        return self.steps or math.ceil(self.epochs * examples / self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready; later ones only if they are set, so that earlier records stay equal."""
        plain = TrainSettings()
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER_SETTINGS or value != getattr(plain, name)
        }


@dataclass(frozen=True)
class LossWeights:
    """Weights of the distillation loss terms; a term of weight 0 is not computed.

    Attributes:
        logits: cross-entropy between the teacher's and the student's distributions (the paper's soft labels).
            Its gradient is that of the divergence KL(teacher || student).
        labels: cross-entropy with the reference text.
        hidden: mean squared error of the hidden states, embeddings included, averaged over layers.
        attention: mean squared error of the attention maps, averaged over layers.
        temperature: of both distributions in the `logits` and `reverse` terms.
        reverse: the divergence KL(student || teacher), which makes the student choose among what the teacher
            finds likely (Gu et al. 2023, MiniLLM, arXiv:2306.08543).
        relations: divergence of the attention relations of BitDistill (see `RelationTerm`).
        layers: indices of the layers that `hidden`, `attention` and `relations` compare, from 0, or from the
            end if negative; None: all. An encoder and a decoder have the same.
    """

    logits: float = 1.0
    labels: float = 0.0
    hidden: float = 1.0
    attention: float = 0.0
    temperature: float = 1.0
    reverse: float = 0.0
    relations: float = 0.0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in _TERMS:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise TrainingError(f"loss weight {name}={value!r}: expected a number that is not negative")
        if not 0 < self.temperature < math.inf:
            raise TrainingError(f"temperature={self.temperature!r}: expected a number above 0")
        if not any(getattr(self, name) for name in _TERMS):
            raise TrainingError(f"every loss weight is 0: expected at least one of {', '.join(_TERMS)}")
        if self.layers is not None and not self.layers:
            raise TrainingError("layers=(): expected the index of a layer, or None for all layers")

    @property
    def of_distributions(self) -> bool:
        """Whether the teacher's distributions are all that is compared with."""
        return bool(self.logits or self.reverse) and not (self.hidden or self.attention or self.relations)

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready; later ones only if they are set, so that earlier records stay equal."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in _LATER or value}

    def chosen(self, layers: Sequence[T]) -> Sequence[T]:
        """The layers to compare, of all that there are.

        Raises:
            TrainingError: there is no such layer.

        >>> LossWeights(layers=(0, -1)).chosen(["first", "second", "third"])
        ['first', 'third']
        """
        if self.layers is None:
            return layers
        for index in self.layers:
            if not -len(layers) <= index < len(layers):
                raise TrainingError(f"layer {index} of a stack of {len(layers)}: expected one that is there")
        return [layers[index] for index in self.layers]


def teacher_rate(model: str) -> float:
    """The default peak learning rate of a full-precision model: 2e-3 for small sizes, else the paper's.

    >>> teacher_rate("tiny"), teacher_rate("facebook/bart-base")
    (0.002, 0.0005)
    """
    return 2e-3 if model in _SMALL else PAPER_RATE


def student_rate(model: str, recipe: str | Recipe, given: float | None = None) -> float:
    """The peak learning rate of a student; halved for 8-bit activations, as in the paper.

    For small sizes twice the teacher's rate was best or close to it on two data sets, at one and two bits.

    Args:
        model: a name in `MODEL_SIZES`, or the name or folder of a model.
        recipe: of the student.
        given: the rate before halving; None: 4e-3 for tiny, wide and small, else the paper's 5e-4.

    >>> student_rate("tiny", "2-2-2"), student_rate("tiny", "2-2-8"), student_rate("my-bart", "1-1-1")
    (0.004, 0.002, 0.0005)
    """
    usual = 4e-3 if model in _SMALL else PAPER_RATE
    rate = usual if given is None else given
    return rate / 2 if Recipe.parse(recipe).activation_bits == 8 else rate
