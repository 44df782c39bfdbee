"""A teacher's distributions by their k most likely tokens, all others taken together as one."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Likeliest(NamedTuple):
    """N distributions over a vocabulary, at one temperature.

    Attributes:
        tokens: int64 `[N, k]`, the most likely first.
        log_probabilities: float32 `[N, k]`, of these tokens.
        rest: float32 `[N]`, the probability of all other tokens.
    """

    tokens: Tensor
    log_probabilities: Tensor
    rest: Tensor


def likeliest(logits: Tensor, k: int, temperature: float = 1.0) -> Likeliest:
    """The k most likely tokens of the distributions of logits `[N, V]`; all if there are no more than k.

    Args:
        logits: of the teacher.
        k: number of tokens.
        temperature: of the distributions.

    >>> likeliest(torch.zeros(1, 4), 3).rest.item()
    0.25
    """
    logs = F.log_softmax(logits.float() / temperature, dim=-1)
    top = logs.topk(min(k, logits.shape[-1]), dim=-1)
    others = logs.exp().scatter(-1, top.indices, 0.0).sum(-1)
    return Likeliest(top.indices, top.values, others)


def cross_entropy(student: Tensor, teacher: Likeliest, temperature: float = 1.0) -> Tensor:
    """`soft_cross_entropy` with distributions over k tokens and the rest.

    Args:
        student: logits `[N, V]`.
        teacher: N distributions, made with the same temperature.
        temperature: of the student's distributions.

    Returns:
        A scalar; with k = V that of `soft_cross_entropy`, otherwise a lower bound of it.
    """
    ours, rest = _of_student(student, teacher, temperature)
    loss = (teacher.log_probabilities.exp() * ours).sum(-1)
    if rest is not None:
        loss = loss + teacher.rest * rest
    return -loss.mean() * temperature**2


def reverse_divergence(student: Tensor, teacher: Likeliest, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher) with distributions over k tokens and the rest.

    Args:
        student, teacher, temperature: as for `cross_entropy`.

    Returns:
        A scalar; with k = V the divergence of whole distributions, otherwise a lower bound of it.
    """
    ours, rest = _of_student(student, teacher, temperature)
    loss = (ours.exp() * (ours - teacher.log_probabilities)).sum(-1)
    if rest is not None:
        loss = loss + rest.exp() * (rest - teacher.rest.clamp_min(torch.finfo(torch.float32).tiny).log())
    return loss.mean() * temperature**2


def _of_student(student: Tensor, teacher: Likeliest, temperature: float) -> tuple[Tensor, Tensor | None]:
    """The student's log-probabilities of the same tokens `[N, k]`, and of the rest `[N]` if there is one."""
    logits = student.float() / temperature
    whole = logits.logsumexp(-1)
    ours = logits.gather(-1, teacher.tokens) - whole[:, None]
    if teacher.tokens.shape[-1] == student.shape[-1]:
        return ours, None
    others = logits.scatter(-1, teacher.tokens, torch.finfo(torch.float32).min).logsumexp(-1)
    return ours, others - whole
