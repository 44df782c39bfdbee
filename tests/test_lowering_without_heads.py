"""Attention on `[B, T, D]`, without heads, in the forward of a module that has a constant with a default."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tbt_compile
from tbt_compile import CompiledModule
from tbt_compile.errors import InputError


class WithoutHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor, scale: float = 0.25) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) * scale
        return scores.softmax(-1) @ self.value(x)


def test_attention_without_heads() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 16)
    model = WithoutHeads()
    assert [site.kind.value for site in tbt_compile.plan(model, "2-2-2", (x,))].count("attention") == 1
    prepared = tbt_compile.prepare(model, "2-2-2", (x,))
    prepared(x).sum().backward()
    frozen = tbt_compile.freeze(prepared)
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModule)
    for rows in (1, 3, 4):
        x = torch.randn(rows, 5, 16)
        np.testing.assert_allclose(compiled(x), frozen(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        InputError, match=r"'scale' of WithoutHeads\(x\) was fixed to 0.25 when it was prepared"
    ):
        compiled(x, scale=3.0)
    with pytest.raises(InputError, match=r"got 2 positional arguments; fixed .*: 'scale' to 0.25"):
        compiled(x, 3.0)


class CalledWithoutHeads(nn.Module):
    """Calls of PyTorch's attention without heads; rows of the first operand are replaced by a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.mask_vector = nn.Linear(16, 16), nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor, y: Tensor, hidden: Tensor, allowed: Tensor) -> Tensor:
        attention = nn.functional.scaled_dot_product_attention
        x = self.linear(x)
        x[hidden] = self.mask_vector
        causal = attention(x, x, x, is_causal=True)
        return attention(causal, y, y * 2) + attention(x, x, causal, allowed)


def test_calls_of_attention_without_heads() -> None:
    def inputs(rows: int) -> tuple[Tensor, ...]:
        x, y, allowed = torch.randn(rows, 5, 16), torch.randn(rows, 7, 16), torch.rand(rows, 5, 5) < 0.7
        return x, y, torch.rand(rows, 5) < 0.3, allowed | torch.eye(5, dtype=torch.bool)

    torch.manual_seed(0)
    prepared = tbt_compile.prepare(CalledWithoutHeads(), "8-8-8", inputs(3))
    prepared(*inputs(3))
    frozen = tbt_compile.freeze(prepared)
    compiled = tbt_compile.lower(frozen)
    assert isinstance(compiled, CompiledModule)
    for rows in (1, 3, 4):
        args = inputs(rows)
        np.testing.assert_allclose(compiled(*args), frozen(*args), rtol=1e-4, atol=1e-4)
    x, y, _, allowed = inputs(3)
    with pytest.raises(InputError, match=r"hidden is bool of shape \[2, 5\]: expected bool \[3, 5\]"):
        compiled(x, y, torch.ones(2, 5, dtype=torch.bool), allowed)
