"""Freezing layers that read one weight: each keeps what it was trained with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import tbt_compile


class TwoReaders(nn.Module):
    """Two layers that read one square weight, the second maybe as its transpose."""

    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 12), second, nn.Linear(12, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        return self.last(self.second(torch.relu(inner)) + inner)


class FunctionalReaders(nn.Module):
    """Two calls of a function that read one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(nn.functional.linear(x, self.weight)), self.weight)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: TwoReaders(nn.Linear(12, 12)), id="linear"),
        pytest.param(lambda: TwoReaders(Conv1D(12, 12)), id="transpose"),
        pytest.param(FunctionalReaders, id="calls"),
    ],
)
@pytest.mark.parametrize("method", ["stats", "l2", "learned", "scaled"])
def test_layers_that_share_a_weight_keep_scales_of_their_own(
    make: Callable[[], nn.Module], method: str
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 12)
    recipe = tbt_compile.Recipe.parse("2-2-2", weight_method=method)
    prepared = tbt_compile.prepare(make(), recipe, example_inputs=(x,))
    optimizer = torch.optim.SGD(prepared.parameters(), 0.5)
    for _ in range(5):
        optimizer.zero_grad()
        prepared(x).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(tbt_compile.freeze(prepared.eval())(x), prepared(x))
