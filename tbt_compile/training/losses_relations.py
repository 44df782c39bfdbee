"""Attention relations: how the queries, keys and values of a layer resemble each other, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbt_compile.training.losses_attention import among, heads, projections
from tbt_compile.training.settings import LossWeights, TrainingError
from tbt_compile.training.shares import of_stack, weight
from tbt_compile.training.tasks import Stack, Task, task_of
from tbt_compile.training.terms import Measure, Term, Watch

_FUSED = "c_attn"


@dataclass(frozen=True)
class RelationTerm(Term):
    """BitDistill's distillation of attention relations (Wu et al. 2025, arXiv:2510.13998), after MiniLMv2.

    R = softmax(A A^T / sqrt(d)) for A in {Q, K, V}, what a head of d columns projects before positions are
    applied; tokens that are padding, or of another text of a packed row, are left out. The term is the
    divergence KL(R_teacher || R_student), averaged over tokens, heads, Q, K and V, and layers. The paper
    takes one layer.

    Attributes:
        weight: of the term.
        layers: indices of layers, as in `LossWeights`; None: all.
    """

    weight: float = 1.0
    layers: tuple[int, ...] | None = None

    def bind(self, student: nn.Module, teacher: nn.Module, watch: Watch) -> Measure:
        """Watch the query, key and value projections of both models.

        Args:
            student, teacher, watch: see `Term.bind`.
        """
        task: Task = task_of(student)
        ours, theirs = (self._watched(model, task, watch) for model in (student, teacher))

        def measure(outputs: Any, _teacher: Any, inputs: Mapping[str, Tensor]) -> Tensor:
            stacks = task.stacks(outputs, inputs)
            losses = [
                _divergence(own(), other(), kept(stacks[name]))
                * weight(inputs, of_stack(task, outputs, name, partial(_rows, kept)))
                for (name, parts), (_, others) in zip(ours, theirs, strict=True)
                for own, other, kept in zip(parts, others, _KEPT, strict=True)
            ]
            return torch.stack(losses).mean()

        return measure

    def _watched(
        self, model: nn.Module, task: Task, watch: Watch
    ) -> list[tuple[str, list[Callable[[], Tensor]]]]:
        """The stack and the projections, split into heads, of each layer that is compared."""
        stacks: dict[str, list[nn.Module]] = {}
        for name, module in model.named_modules():
            if projections(module) or hasattr(module, _FUSED):
                stacks.setdefault(task.stack_of(name), []).append(module)
        if not stacks:
            raise TrainingError(
                f"{type(model).__name__} has no attention with q_proj, k_proj and v_proj (or q, k and v; "
                "query, key and value; c_attn): expected one, to compare relations"
            )
        weights = LossWeights(layers=self.layers)
        return [
            (name, watched_heads(module, watch))
            for name, modules in stacks.items()
            for module in weights.chosen(modules)
        ]


def watched_heads(module: nn.Module, watch: Watch) -> list[Callable[[], Tensor]]:
    """Functions that return the last queries, keys and values of an attention module, `[B, H, T, D]`."""
    parts = [watch(part) for part in projections(module)]
    if not parts:
        fused = watch(getattr(module, _FUSED))
        parts = [partial(_third, fused, number) for number in range(3)]
    return [partial(_split, part, module) for part in parts]


def _third(fused: Callable[[], Tensor], number: int) -> Tensor:
    return fused().chunk(3, dim=-1)[number]


def _split(part: Callable[[], Tensor], module: nn.Module) -> Tensor:
    return heads(part(), module)


def _of_queries(stack: Stack) -> Tensor:
    return _pairs(stack.queries, stack.documents)


def _of_keys(stack: Stack) -> Tensor:
    return _pairs(stack.keys, stack.documents)


_KEPT = (_of_queries, _of_keys, _of_keys)
"""Bool `[B, T, T]` for queries, keys and values: tokens of one text that are compared with each other."""


def _pairs(kept: Tensor, documents: Tensor | None) -> Tensor:
    pairs = among(kept)
    return pairs if documents is None else pairs & (documents[:, :, None] == documents[:, None, :])


def _rows(kept: Callable[[Stack], Tensor], stack: Stack) -> Tensor:
    """Bool `[B, T]`: tokens that are compared with some token."""
    return kept(stack).any(-1)


def relation(x: Tensor, keep: Tensor) -> Tensor:
    """The logarithms of the relations R of x `[B, H, T, D]`: float32 `[B, H, T, T]`.

    Tokens where `keep`, bool `[B, T, T]`, is not set have no part in them.
    """
    scores = x.float() @ x.float().transpose(-1, -2) / math.sqrt(x.shape[-1])
    return F.log_softmax(scores.masked_fill(~keep[:, None], torch.finfo(torch.float32).min), dim=-1)


def _divergence(student: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
    """The mean over kept tokens and heads of KL(R_teacher || R_student)."""
    ours, theirs = relation(student, keep), relation(teacher.detach(), keep)
    rows = keep.any(-1)
    terms = (theirs.exp() * (theirs - ours)).sum(-1) * rows[:, None]
    return terms.sum() / (rows.sum() * student.shape[1]).clamp_min(1)
