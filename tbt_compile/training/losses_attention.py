"""Loss terms on the inputs of attention (queries, keys, values, scores), layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbt_compile.modules.attention import CHILD
from tbt_compile.quantizers import QuantTensor
from tbt_compile.training.settings import TrainingError
from tbt_compile.training.shares import of_stack, weight
from tbt_compile.training.tasks import Stack, task_of
from tbt_compile.training.terms import Measure, Term, Watch

_PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("q", "k", "v"), ("query", "key", "value"))
_WIDTHS = ("head_dim", "key_value_proj_dim", "attention_head_size")


@dataclass(frozen=True)
class DirectionTerm(Term):
    """BiBERT's direction-matching distillation: MSE of the similarity matrices of Q, K and V.

    Qin et al. 2022, BiBERT (arXiv:2203.06390): P_F = F F^T / ||F F^T|| for F in {Q, K, V}, normalized row
    by row. The term is the mean squared error between the student's and the teacher's P_F over tokens that
    are not padding, summed over F and all layers.
    """

    weight: float = 1.0

    def bind(self, student: nn.Module, teacher: nn.Module, watch: Watch) -> Measure:
        """Watch the query, key and value projections of both models.

        Args:
            student, teacher, watch: see `Term.bind`.
        """
        pairs = list(zip(attention_modules(student), attention_modules(teacher), strict=True))
        watched = [[watch(part) for part in projections(module)] for pair in pairs for _, module in pair]
        task = task_of(student)

        def measure(outputs: Any, _teacher: Any, inputs: Mapping[str, Tensor]) -> Tensor:
            losses, stacks = [], task.stacks(outputs, inputs)
            for number, ((name, module), (_, theirs)) in enumerate(pairs):
                stack = task.stack_of(name)
                ours, target = watched[2 * number], watched[2 * number + 1]
                for own, other, kept in zip(ours, target, _KEPT, strict=True):
                    keep = kept(stacks[stack])
                    student_p = similarity(heads(own(), module), keep)
                    teacher_p = similarity(heads(other(), theirs), keep)
                    share = weight(inputs, of_stack(task, outputs, stack, partial(_pairs, kept)))
                    losses.append(_masked_mse(student_p, teacher_p, among(keep)) * share)
            return torch.stack(losses).sum()

        return measure


@dataclass(frozen=True)
class ScoreTerm(Term):
    """Mean squared error of the attention scores before softmax, summed over all layers.

    Zhang et al. 2020, TernaryBERT (arXiv:2009.12812), after TinyBERT: A = Q K^T / sqrt(d), with the
    student's queries and keys quantized. Padding is left out, and so are the causally masked scores of
    decoder self-attention. Position biases (T5) are not included.
    """

    weight: float = 1.0

    def bind(self, student: nn.Module, teacher: nn.Module, watch: Watch) -> Measure:
        """Watch the queries and keys of both models.

        Args:
            student, teacher, watch: see `Term.bind`.
        """
        pairs = list(zip(attention_modules(student), attention_modules(teacher), strict=True))
        watched = [(_scores(ours, watch), _scores(theirs, watch)) for (_, ours), (_, theirs) in pairs]
        task = task_of(student)

        def measure(outputs: Any, _teacher: Any, inputs: Mapping[str, Tensor]) -> Tensor:
            losses, stacks = [], task.stacks(outputs, inputs)
            for ((name, _), _), (ours, theirs) in zip(pairs, watched, strict=True):
                stack = task.stack_of(name)
                share = weight(inputs, of_stack(task, outputs, stack, lambda one: one.visible))
                losses.append(_masked_mse(ours(), theirs(), stacks[stack].visible) * share)
            return torch.stack(losses).sum()

        return measure


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The names and attention modules of a model.

    Raises:
        TrainingError: no module has query, key and value projections under the usual names.
    """
    found = [(name, module) for name, module in model.named_modules() if projections(module)]
    if not found:
        raise TrainingError(
            f"{type(model).__name__} has no attention with q_proj, k_proj and v_proj (or q, k and v; query, "
            "key and value): expected a model such as BART, T5, Llama or BERT"
        )
    return iter(found)


def projections(module: nn.Module) -> list[nn.Module]:
    """The query, key and value projections of a module; empty if it is not attention."""
    for names in _PROJECTIONS:
        parts = [getattr(module, name, None) for name in names]
        if all(isinstance(part, nn.Linear) for part in parts):
            return parts  # type: ignore[return-value]
    return []


def heads(x: Tensor, module: nn.Module) -> Tensor:
    """Split `[B, T, H * D]` into heads `[B, H, T, D]`; four dimensions are split already."""
    if x.dim() == 4:
        return x
    width: Any = next(value for name in _WIDTHS if (value := getattr(module, name, None)))
    return x.view(*x.shape[:2], -1, width).transpose(1, 2)


def similarity(x: Tensor, keep: Tensor) -> Tensor:
    """BiBERT's P_F of x `[B, H, T, D]`: `[B, H, T, T]` with rows of norm 1.

    Tokens where `keep`, bool `[B, T]`, is not set have no part in it.

    >>> similarity(torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]]]), torch.tensor([[True, True]]))
    tensor([[[[1., 0.],
              [0., 1.]]]])
    """
    x = x * keep[:, None, :, None]
    return F.normalize(x @ x.transpose(-1, -2), dim=-1)


_KEPT: tuple[Callable[[Stack], Tensor], ...] = (
    lambda stack: stack.queries,
    lambda stack: stack.keys,
    lambda stack: stack.keys,
)
"""Bool `[B, T]` for queries, keys and values: tokens that are compared with each other."""


def among(keep: Tensor) -> Tensor:
    """Bool `[B, T, T]`: pairs of the tokens that `keep`, bool `[B, T]`, marks."""
    return keep[:, :, None] & keep[:, None, :]


def _pairs(kept: Callable[[Stack], Tensor], stack: Stack) -> Tensor:
    return among(kept(stack))


def _masked_mse(student: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
    """Mean squared error of `[B, H, Q, K]` where `keep` `[B, Q, K]` is set."""
    difference = (student - teacher).square() * keep[:, None]
    return difference.sum() / (keep.sum() * student.shape[1]).clamp_min(1)


def _scores(module: nn.Module, watch: Watch) -> Callable[[], Tensor]:
    core: Any = module._modules.get(CHILD)
    parts = projections(module)[:2] if core is None else [core.query, core.key]
    query, key = (watch(part) for part in parts)
    scaling = float(getattr(module, "scaling", 1.0))

    def scores() -> Tensor:
        q, k = (heads(x.value if isinstance(x, QuantTensor) else x, module) for x in (query(), key()))
        return q @ k.transpose(-1, -2) * scaling

    return scores
