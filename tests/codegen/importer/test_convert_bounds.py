"""Comparisons and extrema of booleans and of integers out of range, against torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from converter_tools import Each, assert_compiles
from torch import Tensor

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def test_comparisons_of_booleans() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: (x > 0) != (x < 1),
        lambda x: (x > 0) == (x < 1),
        lambda x: (x > 0) != True,  # noqa: E712
        lambda x: (x > 0) == False,  # noqa: E712
        lambda x: (x > 0) < (x < 1),
        lambda x: (x > 0) <= (x < 1),
        lambda x: (x > 0) > (x < 1),
        lambda x: (x > 0) >= True,
        lambda x: (x > 0) == 2,
        lambda x: torch.maximum(x > 0, x < 1),
        lambda x: torch.minimum(x > 0, x < 1),
        lambda x: torch.fmax(x > 0, x < 1),
        lambda x: torch.fmin(x > 0, x < 1),
        lambda x: (x > 0).logical_xor(x < 1) ^ (x > 1),
        lambda x: (x > 0).max(1)[0],
        lambda x: (x > -9).prod(),
        lambda x: (x > 0).prod(1, keepdim=True),
        lambda x: x.int().prod(0),
        lambda x: (x > 0).cumprod(1),
    ]
    assert_compiles(Each(*functions), X, rows=3)


def test_numbers_out_of_the_range_of_integers_wrap_around() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x == 2**40,
        lambda x: x != 2**40 + 1,
        lambda x: x < 2**40 + 1,
        lambda x: x > -(2**31) - 1,
        lambda x: x + 2**40,
        lambda x: x.to(torch.uint8) == -1,
        lambda x: x.to(torch.int8) < 300,
        lambda x: x.long() == 2**40,
    ]
    assert_compiles(Each(*functions), (X * 3).int(), rows=3)
