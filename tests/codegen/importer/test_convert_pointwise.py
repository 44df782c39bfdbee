"""Pointwise operators against torch, and those that would be computed wrongly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from converter_tools import Each, assert_compiles
from torch import nn


def test_activations_on_images() -> None:
    torch.manual_seed(0)
    module = Each(nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.CELU(0.5), nn.CELU())
    assert_compiles(module, torch.randn(3, 8, 12, 12))


def test_functions_of_rows_and_flags() -> None:
    torch.manual_seed(0)
    module = Each(
        lambda x, flags: F.gelu(x.flatten()),
        lambda x, flags: x.masked_fill(flags, float("-inf")),
        lambda x, flags: 1 - x,
        lambda x, flags: x - 2 * x.square(),
        lambda x, flags: flags.int().cumsum(1) + x.shape[0],
    )
    assert_compiles(module, torch.randn(3, 5), torch.rand(3, 5) < 0.5)
