"""Fused operators in floating point: equal to what they are fused from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from operator_tools import BRIEF, FEW, LENGTHS, TBT, check_export, check_fake


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_masked_softmax(scale: float) -> None:
    scores = torch.randn(2, 3, 4, 5)
    mask = torch.where(torch.rand(2, 1, 4, 5) < 0.3, torch.finfo(torch.float32).min, 0.0)
    assert torch.equal(TBT.masked_softmax(scores, None, scale), F.softmax(scores * scale, dim=-1))
    assert torch.equal(TBT.masked_softmax(scores, mask, scale), F.softmax(scores * scale + mask, dim=-1))
    check_export(TBT.masked_softmax, scores, mask, scale)


def test_add_layer_norm() -> None:
    x, residual, weight, bias = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(8), torch.randn(8)
    expected = F.layer_norm(x + residual, (8,), weight, bias, 1e-6)
    assert torch.equal(TBT.add_layer_norm(x, residual, weight, bias, 1e-6), expected)
    check_export(TBT.add_layer_norm, x, residual, weight, bias, 1e-6)


@BRIEF
@given(FEW, FEW, FEW, LENGTHS, st.booleans())
def test_fake_of_masked_softmax(batch: int, count: int, queries: int, tokens: int, masked: bool) -> None:
    mask = torch.zeros(batch, 1, queries, tokens) if masked else None
    check_fake(TBT.masked_softmax, torch.randn(batch, count, queries, tokens), mask, 0.5)


@BRIEF
@given(st.lists(FEW, max_size=3), LENGTHS)
def test_fake_of_add_layer_norm(lead: list[int], width: int) -> None:
    x, residual = torch.randn(*lead, width), torch.randn(*lead, width)
    check_fake(TBT.add_layer_norm, x, residual, torch.randn(width), torch.randn(width), 1e-6)
