"""The fused cross-entropy under soft labels against its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tbt_compile.training.soft_labels import soft_cross_entropy


def formula(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_student = F.log_softmax(student / temperature, dim=-1)
    return -(F.softmax(teacher / temperature, dim=-1) * log_student).sum(-1).mean() * temperature**2


@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(1, 40),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 3.7]),
    seed=st.integers(0, 99),
)
def test_value_and_gradient_are_those_of_the_formula(
    rows: int, vocabulary: int, temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        5 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    found, expected = [], []
    for function, results in ((soft_cross_entropy, found), (formula, expected)):
        leaf = student.clone().requires_grad_()
        loss = function(leaf, teacher, temperature)
        (3.0 * loss).backward()
        results += [loss.detach(), leaf.grad]
    torch.testing.assert_close(found, expected)


def test_half_precision_is_summed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(64, 3000, generator=generator).bfloat16() for _ in range(2))
    leaf = student.clone().requires_grad_()
    loss = soft_cross_entropy(leaf, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, formula(student.float(), teacher.float(), 1.0))
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = (torch.randn(6, 5).requires_grad_() for _ in range(2))
    soft_cross_entropy(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_a_large_vocabulary_loses_no_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(200, 50_265, generator=generator) for _ in range(2))
    exact = formula(student.double(), teacher.double(), 1.0).item()
    assert soft_cross_entropy(student, teacher).item() == pytest.approx(exact, rel=5e-7)
