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
