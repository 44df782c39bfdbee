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
