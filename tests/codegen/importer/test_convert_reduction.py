"""Softmax and extrema: which have kernels, and what they compute."""

from __future__ import annotations

import torch
from converter_tools import Each, assert_compiles, imported
from torch import Tensor, nn


def test_extrema() -> None:
    torch.manual_seed(0)
    module = Each(
        lambda x: x.amax(1),
        lambda x: x.amin((0, 1), keepdim=True),
        lambda x: x.amax() + x[:, 0],
    )
    assert_compiles(module, torch.randn(3, 5))


class MaskedSoftmax(nn.Module):
    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        masked = torch.ops.tbt.masked_softmax(scores, mask, 0.5)
        return masked + torch.ops.tbt.masked_softmax(scores, None, 0.5)


def test_a_mask_makes_another_kernel() -> None:
    text, kernels = imported(MaskedSoftmax(), torch.randn(2, 3, 4, 5), torch.zeros(2, 1, 4, 5))
    assert kernels == ["softmax_0p5_0", "softmax_0p5_1"]
    assert text.count("R.call_tir(") == 2


def test_all_dimensions_share_a_kernel() -> None:
    module = Each(
        lambda x: x.softmax(-1),
        lambda x: x.softmax(2),
        lambda x: x.softmax(1),
    )
    text, kernels = imported(module, torch.randn(2, 3, 4))
    assert len(kernels) == 1
    assert text.count("R.call_tir(") == 3
    assert "R.nn.softmax(" not in text
