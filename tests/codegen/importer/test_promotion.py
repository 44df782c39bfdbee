"""Integers and booleans among floats: the compiled module promotes them as PyTorch does."""

from __future__ import annotations

import torch
from converter_tools import Each, assert_compiles


def test_integers_become_floats_where_they_meet_them() -> None:
    part = torch.tensor([1.5, 2.5, 0.5])
    layers = Each(
        lambda x: x * 1.5,
        lambda x: x + 0.5,
        lambda x: 0.5 - x,
        lambda x: x / 2,
        lambda x: 2 / x,
        lambda x: x // 1.5,
        lambda x: x % 1.5,
        lambda x: x**0.5,
        lambda x: x.sigmoid(),
        lambda x: x.rsqrt(),
        lambda x: (x > 1.5).float(),
        lambda x: (x == 2.5).float(),
        lambda x: part * x,
        lambda x: torch.cat([x, x.float()], -1),
        lambda x: torch.stack([x + 0.5, x], -1),
    )
    assert_compiles(layers, torch.tensor([[1, 2, 3], [2, 4, 6], [3, 1, 2]]))


def test_narrow_integers_become_wider_ones() -> None:
    large = torch.tensor([[2**30, 2**30, 3], [2**30, 2**31 - 1, 7], [0, 1, 1]], dtype=torch.int32)
    layers = Each(
        lambda x: (x > 1) * 3,
        lambda x: (x > 1) + (x > 2).int() + 1,
        lambda x: torch.where(x > 1, x > 2, 7),
        lambda x: x.cumsum(1),
        lambda x: (x > 1).cumsum(0) - 1,
        lambda x: ((x > 1) > 0).float(),
        lambda x: x + torch.arange(3),
    )
    assert_compiles(layers, large)
