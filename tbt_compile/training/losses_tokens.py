"""Terms that compare student and teacher token by token at the end of the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbt_compile.data.batches import IGNORED_LABEL
from tbt_compile.training import processes
from tbt_compile.training.terms import Measure, Term, Watch


@dataclass(frozen=True)
class LogitsTerm(Term):
    """Mean squared error of the logits, over tokens that are no padding (DQ-BART)."""

    weight: float = 1.0

    def bind(self, _student: nn.Module, _teacher: nn.Module, _watch: Watch) -> Measure:
        def measure(ours: Any, theirs: Any, inputs: Mapping[str, Tensor]) -> Tensor:
            written = inputs["labels"] != IGNORED_LABEL
            return F.mse_loss(ours.logits[written], theirs.logits[written]) * processes.weight(written)

        return measure


@dataclass(frozen=True)
class ContrastiveTerm(Term):
    """Token-level contrastive distillation on the last hidden states of the decoder.

    Tao et al. 2022, Compression of Generative Pre-trained Language Models via Quantization
    (arXiv:2203.10705): a token of the student is to be nearer to the same token of the teacher than to the
    teacher's other tokens of the same sequence. Needs outputs with hidden states.
    """

    weight: float = 0.1
    temperature: float = 0.1

    def bind(self, _student: nn.Module, _teacher: nn.Module, _watch: Watch) -> Measure:
        def measure(ours: Any, theirs: Any, inputs: Mapping[str, Tensor]) -> Tensor:
            written = inputs["labels"] != IGNORED_LABEL
            student, teacher = ours.decoder_hidden_states[-1], theirs.decoder_hidden_states[-1]
            return contrastive(student, teacher, written, self.temperature) * processes.weight(written)

        return measure


def contrastive(student: Tensor, teacher: Tensor, keep: Tensor, temperature: float) -> Tensor:
    """Mean over kept tokens i of `-log(exp(s_ii / t) / sum_j exp(s_ij / t))`.

    s_ij is the cosine of student token i and teacher token j of the same sequence, j over kept tokens.

    Args:
        student, teacher: `[B, T, D]`. keep: bool `[B, T]`.

    >>> same = torch.eye(2)[None]
    >>> round(contrastive(same, same, torch.ones(1, 2, dtype=torch.bool), 1.0).item(), 4)
    0.3133
    """
    cosines = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).transpose(-1, -2) / temperature
    cosines = cosines.masked_fill(~keep[:, None, :], torch.finfo(cosines.dtype).min)
    own = torch.arange(keep.shape[1], device=keep.device).expand(keep.shape)
    return F.cross_entropy(cosines[keep], own[keep])
