"""Tensors of one value, of sizes that are known at run time only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from converter_tools import Each, assert_compiles
from torch import Tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_tensors_of_one_value(dtype: torch.dtype) -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.zeros(x.shape[0], 3, dtype=dtype),
        lambda x: torch.ones(2, x.shape[0], dtype=dtype),
        lambda x: torch.full((x.shape[0], 1), 1, dtype=dtype),
        lambda x: x.new_zeros(x.shape[0], dtype=dtype),
        lambda x: x.new_ones(x.shape[0] * 2, dtype=dtype),
        lambda x: x.new_full((x.shape[0], 2), 1, dtype=dtype),
        lambda x: torch.ones_like(x, dtype=dtype),
    ]
    assert_compiles(Each(*functions), torch.randn(5, 4), rows=3)


def test_empty_tensors_that_are_written() -> None:
    def halves(x: Tensor) -> Tensor:
        y = torch.empty(x.shape[0], 2, 4)
        y[:, 0] = x
        y[:, 1] = -x
        return y

    def rotated(x: Tensor) -> Tensor:
        y = x.new_empty(x.shape)
        y[:, :2], y[:, 2:] = x[:, 2:], x[:, :2]
        return y

    assert_compiles(Each(halves, rotated), torch.randn(5, 4), rows=3)


def test_ranges() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.arange(7, -8, -1),
        lambda x: torch.arange(7, -8, -3, dtype=torch.float32),
        lambda x: torch.arange(0.5, 3.1, 0.1),
        lambda x: torch.arange(2.5, -3, -0.5),
        lambda x: torch.arange(1, 9, 3),
        lambda x: torch.arange(x.shape[0] - 1, -x.shape[0], -1),
        lambda x: torch.arange(x.shape[0] * 2, -2, -3, dtype=torch.float32),
        lambda x: torch.arange(1, x.shape[0] * 3, 2),
        lambda x: torch.arange(x.shape[0], 3 * x.shape[0]),
    ]
    assert_compiles(Each(*functions), torch.randn(5, 4), rows=3)
