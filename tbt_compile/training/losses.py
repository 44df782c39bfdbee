"""The terms of the distillation loss, each a mean over positions that are not padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tbt_compile.data.batches import IGNORED_LABEL
from tbt_compile.training import processes
from tbt_compile.training.settings import LossWeights
from tbt_compile.training.soft_labels import soft_cross_entropy


class DistillationTerms(NamedTuple):
    """The unweighted loss terms, scalars; None where the weight is 0."""

    logits: Tensor | None
    labels: Tensor | None
    hidden: Tensor | None
    attention: Tensor | None

    def weighted(self, weights: LossWeights) -> Tensor:
        """The weighted sum of the terms: the loss to minimize."""
        return torch.stack([getattr(weights, name) * term for name, term in self.present().items()]).sum()

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
    return torch.stack([F.mse_loss(s[keep], t[keep]) for s, t in zip(student, teacher, strict=True)])


def attention_mse(
    student: Sequence[Tensor], teacher: Sequence[Tensor], queries: Tensor, keys: Tensor
) -> Tensor:
    """Mean squared error of the attention maps, per layer.

    Args:
        student, teacher: attention maps `[B, H, Q, K]` of each layer.
        queries: bool `[B, Q]`, false at padding.
        keys: bool `[B, K]`, false at padding.

    Returns:
        `[layers]`.
    """
    keep = (queries[:, None, :, None] & keys[:, None, None, :]).expand_as(student[0])
    return torch.stack([F.mse_loss(s[keep], t[keep]) for s, t in zip(student, teacher, strict=True)])


def distillation_terms(
    student: Any, teacher: Any, labels: Tensor, attention_mask: Tensor, weights: LossWeights
) -> DistillationTerms:
    """The loss terms with a weight above 0, from the outputs of student and teacher on one batch.

    If several processes share the batch, each term is weighted so that the average over processes is the
    term of the whole batch.

    Args:
        student, teacher: outputs of encoder-decoder models: `logits` `[B, T, V]`, the student's `loss` on
            the labels, and hidden states and attention maps if their weights are above 0.
        labels: int64 `[B, T]`, -100 at padding.
        attention_mask: int64 `[B, S]`, 0 at padding.
        weights: of the terms, and the temperature of the logits term.

    Returns:
        The unweighted terms.
    """
    targets, sources = labels != IGNORED_LABEL, attention_mask.bool()
    target_weight, source_weight = processes.weight(targets), processes.weight(sources)
    logits = hidden = attention = None
    if weights.logits:
        logits = soft_cross_entropy(student.logits[targets], teacher.logits[targets], weights.temperature)
        logits = logits * target_weight
    if weights.hidden:
        encoder = hidden_mse(student.encoder_hidden_states, teacher.encoder_hidden_states, sources)
        decoder = hidden_mse(student.decoder_hidden_states, teacher.decoder_hidden_states, targets)
        hidden = torch.cat([encoder * source_weight, decoder * target_weight]).mean()
    if weights.attention:
        encoder_maps = attention_mse(student.encoder_attentions, teacher.encoder_attentions, sources, sources)
        decoder_maps = attention_mse(student.decoder_attentions, teacher.decoder_attentions, targets, targets)
        cross_maps = attention_mse(student.cross_attentions, teacher.cross_attentions, targets, sources)
        parts = (
            encoder_maps * _pairs(sources, sources),
            decoder_maps * _pairs(targets, targets),
            cross_maps * _pairs(targets, sources),
        )
        attention = torch.cat(parts).mean()
    return DistillationTerms(
        logits, student.loss * target_weight if weights.labels else None, hidden, attention
    )


def _pairs(queries: Tensor, keys: Tensor) -> float | Tensor:
    """`processes.weight` of the attention-map entries between kept queries and kept keys."""
    return processes.weight(queries[:, :, None] & keys[:, None, :])
