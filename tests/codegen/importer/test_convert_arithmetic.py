"""Arithmetic on tensors of several dtypes and with numbers computed from sizes, against torch."""

from __future__ import annotations

import math

import torch
from converter_tools import Each, assert_compiles
from torch import Tensor


def test_numbers_computed_from_sizes() -> None:
    torch.manual_seed(0)
    module = Each(
        *(lambda x, i: x * x.shape[0], lambda x, i: x + x.shape[0], lambda x, i: x - x.shape[0]),
        *(lambda x, i: x.shape[0] - x, lambda x, i: x / x.shape[0], lambda x, i: x.shape[0] / x),
        *(lambda x, i: x * (x.shape[0] * 0.3), lambda x, i: x * (1 / x.shape[0])),
        *(lambda x, i: x * x.shape[0] ** 0.5, lambda x, i: x * (x.shape[0] - 0.5) ** 2),
        *(lambda x, i: x * max(x.shape[0], 3), lambda x, i: x * min(x.shape[0], 3)),
        *(lambda x, i: x * (x.shape[0] // 3), lambda x, i: i * x.shape[0], lambda x, i: i / x.shape[0]),
        *(
            lambda x, i: i > x.shape[0] * 0.5,
            lambda x, i: x > x.shape[0],
            lambda x, i: i.float() ** x.shape[0],
        ),
        *(
            lambda x, i: torch.full((x.shape[0], 2), x.shape[0] * 0.5),
            lambda x, i: x.mul(2) + torch.tensor(x.shape[0]),
        ),
        *(lambda x, i: torch.where(i > 2, x, x.shape[0]), lambda x, i: x.masked_fill(i > 2, x.shape[0])),
        *(lambda x, i: x * math.ceil(x.shape[0] * 0.3), lambda x, i: x * math.floor(x.shape[0] * 0.3)),
        *(lambda x, i: x * round(x.shape[0] * 0.5), lambda x, i: x * math.trunc(x.shape[0] / 2)),
    )
    assert_compiles(module, torch.rand(7, 5) + 0.5, torch.randint(-5, 5, (7, 5), dtype=torch.int32))


def test_factors_booleans_and_divisions_by_zero() -> None:
    torch.manual_seed(0)
    module = Each(
        *(lambda x, i, b: torch.add(x, x, alpha=2), lambda x, i, b: torch.sub(x, i, alpha=0.5)),
        *(lambda x, i, b: torch.add(i, 2, alpha=3), lambda x, i, b: torch.rsub(x, i, alpha=2)),
        *(lambda x, i, b: torch.rsub(x, 3.0, alpha=2), lambda x, i, b: x.clone().add_(x, alpha=0.5)),
        *(lambda x, i, b: b + b, lambda x, i, b: b * (x > 0), lambda x, i, b: b + 3, lambda x, i, b: b * i),
        *(lambda x, i, b: torch.where(b, b, 1), lambda x, i, b: torch.where(b, b, i)),
        *(lambda x, i, b: torch.where(b, i, x), lambda x, i, b: torch.cat([b, i, x], 1)),
        *(lambda x, i, b: x / 0, lambda x, i, b: i / -0.0),
    )
    x, flags = torch.tensor([[0.0, -1.5, 2.0, torch.inf, torch.nan]] * 3), torch.rand(3, 5) < 0.5
    assert_compiles(module, x, torch.randint(-3, 3, (3, 5), dtype=torch.int32), flags)


def _written_in_place(x: Tensor) -> tuple[Tensor, Tensor]:
    copied = x.clone()
    flat = copied.view(-1)
    flat[::3] = 0
    return copied, flat


def test_shifts_variances_and_results_that_are_constants_or_views() -> None:
    torch.manual_seed(0)
    module = Each(
        *(
            lambda x: x.roll((1, 2), (0, 1)),
            lambda x: x.roll(-1, 0),
            lambda x: x.roll(3),
            lambda x: x.roll(-9, 1),
        ),
        *(
            lambda x: x.var(0),
            lambda x: x.std(0, keepdim=True),
            lambda x: x.std(),
            lambda x: x.var((0, 1), correction=0),
        ),
        *(
            lambda x: torch.var_mean(x, 0)[0],
            lambda x: torch.std_mean(x, 1)[1],
            lambda x: x.var(0, correction=3),
        ),
        *(
            lambda x: x[:, None].squeeze() * 2,
            lambda x: x[:, None, :, None].squeeze((1, 3)) * 2,
            lambda x: x.squeeze(0) * 2,
        ),
        *(lambda x: torch.full((4, 2), 3.0), lambda x: torch.arange(5), lambda x: torch.tensor(2.5) + 1),
        *(lambda x: _written_in_place(x)[0], lambda x: _written_in_place(x)[1]),
    )
    assert_compiles(module, torch.randn(7, 5))
