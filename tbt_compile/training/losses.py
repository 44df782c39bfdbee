"""The terms of the distillation loss, each a mean over positions that are not padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.training import likeliest
from tbt_compile.training.likeliest import Likeliest
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.shares import of_stack, weight
from tbt_compile.training.soft_labels import reverse_divergence, soft_cross_entropy
from tbt_compile.training.tasks import Inputs, Stack, Task

NO_LABELS = (
    "no example has a label, and the loss on labels has a weight: give labels, or set that weight to 0"
)


class DistillationTerms(NamedTuple):
    """The unweighted loss terms, scalars; None where the weight is 0."""

    logits: Tensor | None
    labels: Tensor | None
    hidden: Tensor | None
    attention: Tensor | None
    reverse: Tensor | None = None

    def weighted(self, weights: LossWeights) -> Tensor:
        """The weighted sum of the terms: the loss to minimize, 0 if there is none."""
        parts = [getattr(weights, name) * term for name, term in self.present().items()]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    def present(self) -> dict[str, Tensor]:
        """The terms that were computed, by name."""
        return {name: term for name, term in self._asdict().items() if term is not None}


def hidden_mse(student: Sequence[Tensor], teacher: Sequence[Tensor], keep: Tensor) -> Tensor:
    """Mean squared error of the hidden states, per layer.

    Args:
        student, teacher: hidden states `[B, T, D]` of each layer.
        keep: bool `[B, T]`, false at padding.

    Returns:
        `[layers]`.
    """
    return torch.stack([_mse(s[keep], t[keep]) for s, t in zip(student, teacher, strict=True)])


def attention_mse(student: Sequence[Tensor], teacher: Sequence[Tensor], pairs: Tensor) -> Tensor:
    """Mean squared error of the attention maps, per layer.

    Args:
        student, teacher: attention maps `[B, H, Q, K]` of each layer.
        pairs: bool `[B, Q, K]`, false at padding.

    Returns:
        `[layers]`.
    """
    keep = pairs[:, None].expand_as(student[0])
    return torch.stack([_mse(s[keep], t[keep]) for s, t in zip(student, teacher, strict=True)])


def _mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared error; 0 of nothing, which a packed block without predictions leaves."""
    return F.mse_loss(student, teacher, reduction="sum") / max(1, student.numel())


def distillation_terms(
    student: Any, teacher: Any, inputs: Inputs, weights: LossWeights, task: Task
) -> DistillationTerms:
    """The loss terms with a weight above 0, from the outputs of student and teacher on one batch.

    If several processes or steps of gradient accumulation share the batch, each term is weighted so that the
    average over them is the term of the whole batch.

    Args:
        student, teacher: outputs of the models: `logits`, the student's `loss` on the labels, and hidden
            states and attention maps if their weights are above 0. Of the teacher the distributions of the
            predictions alone, `Likeliest`, are enough for the terms on logits.
        inputs: the batch, with `labels`.
        weights: of the terms, and the temperature of the logits term.
        task: what the models do; it says which tokens count.

    Returns:
        The unweighted terms.
    """
    share = weight(inputs, task.scored)
    logits = reverse = hidden = attention = None
    if weights.logits or weights.reverse:
        kept = isinstance(teacher, Likeliest)
        ours, theirs = task.logits(student, inputs), teacher if kept else task.logits(teacher, inputs)
        if weights.logits:
            forward: Any = likeliest.cross_entropy if kept else soft_cross_entropy
            logits = forward(ours, theirs, weights.temperature) * share
        if weights.reverse:
            backward: Any = likeliest.reverse_divergence if kept else reverse_divergence
            reverse = backward(ours, theirs, weights.temperature) * share
    if weights.hidden or weights.attention:
        compared = _Compared(student, teacher, inputs, weights, task)
        hidden = compared.hidden() if weights.hidden else None
        attention = compared.attention() if weights.attention else None
    labels = label_loss(student, inputs, task) if weights.labels else None
    return DistillationTerms(logits, labels, hidden, attention, reverse)


def label_loss(outputs: Any, inputs: Inputs, task: Task) -> Tensor:
    """The model's own loss on labels, weighted as a part of the batch.

    Args:
        outputs: of the model, with `loss`.
        inputs: the batch.
        task: of the model.

    Returns:
        A scalar, 0 if the batch has no label.
    """
    if not task.labelled(inputs).any():  # the model's own mean is over nothing
        zero: Tensor = outputs.logits.sum() * 0.0
        return zero
    loss: Tensor = outputs.loss * weight(inputs, task.labelled)
    return loss


@dataclass(frozen=True)
class _Compared:
    """The stacks of student and teacher on one batch."""

    student: Any
    teacher: Any
    inputs: Inputs
    weights: LossWeights
    task: Task

    def hidden(self) -> Tensor:
        """The mean over the chosen layers of all stacks; embeddings are part of all layers, and no layer."""
        first, chosen = 0 if self.weights.layers is None else 1, self.weights.chosen
        parts = [
            hidden_mse(chosen(ours.states[first:]), chosen(theirs.states[first:]), ours.queries)
            * self._share(name, lambda stack: stack.queries)
            for name, ours, theirs in self._stacks()
            if ours.states
        ]
        return torch.cat(parts).mean()

    def attention(self) -> Tensor:
        """The mean over the chosen layers of all stacks."""
        chosen = self.weights.chosen
        parts = [
            attention_mse(chosen(ours.maps), chosen(theirs.maps), ours.pairs)
            * self._share(name, lambda stack: stack.pairs)
            for name, ours, theirs in self._stacks()
            if ours.maps
        ]
        return torch.cat(parts).mean()

    def _stacks(self) -> list[tuple[str, Stack, Stack]]:
        theirs = self.task.stacks(self.teacher, self.inputs)
        ours = self.task.stacks(self.student, self.inputs)
        return [(name, stack, theirs[name]) for name, stack in ours.items()]

    def _share(self, name: str, counted: Callable[[Stack], Tensor]) -> float | Tensor:
        return weight(self.inputs, of_stack(self.task, self.student, name, counted))
