"""Loss terms on the decoder's last hidden states and logits, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbt_compile.training.shares import of_stack, weight
from tbt_compile.training.tasks import task_of
from tbt_compile.training.terms import Measure, Term, Watch


@dataclass(frozen=True)
class LogitsTerm(Term):
    """Mean squared error of the logits over tokens that are not padding.

    Li et al. 2022, DQ-BART (arXiv:2203.11239).
    """

    weight: float = 1.0

    def bind(self, student: nn.Module, _teacher: nn.Module, _watch: Watch) -> Measure:
        """Nothing to watch: the outputs hold the logits.

        Args:
            student: see `Term.bind`.
            _teacher, _watch: unused.
        """
        task = task_of(student)

        def measure(ours: Any, theirs: Any, inputs: Mapping[str, Tensor]) -> Tensor:
            error = F.mse_loss(task.logits(ours, inputs), task.logits(theirs, inputs))
            return error * weight(inputs, task.scored)

        return measure


@dataclass(frozen=True)
class ContrastiveTerm(Term):
    """Token-level contrastive distillation on the last hidden states of the decoder.

    Tao et al. 2022, Compression of Generative Pre-trained Language Models via Quantization
    (arXiv:2203.10705): pulls each student token towards the same token of the teacher and away from the
    teacher's other tokens in the sequence. Needs outputs with hidden states.
    """

    weight: float = 0.1
    temperature: float = 0.1

    def bind(self, student: nn.Module, _teacher: nn.Module, _watch: Watch) -> Measure:
        """Nothing to watch: the outputs hold the hidden states.

        Args:
            student: see `Term.bind`.
            _teacher, _watch: unused.
        """
        task = task_of(student)

        def measure(ours: Any, theirs: Any, inputs: Mapping[str, Tensor]) -> Tensor:
            stack, target = (task.stacks(outputs, inputs)["decoder"] for outputs in (ours, theirs))
            loss = contrastive(stack.states[-1], target.states[-1], stack.queries, self.temperature)
            return loss * weight(inputs, of_stack(task, ours, "decoder", lambda one: one.queries))

        return measure


def contrastive(student: Tensor, teacher: Tensor, keep: Tensor, temperature: float) -> Tensor:
    """The contrastive loss: the mean over kept tokens i of `-log(exp(s_ii / t) / sum_j exp(s_ij / t))`.

    s_ij is the cosine similarity of student token i and teacher token j of the same sequence; j runs over
    the kept tokens.

    Args:
        student, teacher: hidden states `[B, T, D]`.
        keep: bool `[B, T]`, false at padding.
        temperature: t.

    Returns:
        A scalar.

    >>> same = torch.eye(2)[None]
    >>> round(contrastive(same, same, torch.ones(1, 2, dtype=torch.bool), 1.0).item(), 4)
    0.3133
    """
    cosines = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).transpose(-1, -2) / temperature
    cosines = cosines.masked_fill(~keep[:, None, :], torch.finfo(cosines.dtype).min)
    own = torch.arange(keep.shape[1], device=keep.device).expand(keep.shape)
    return F.cross_entropy(cosines[keep], own[keep])
