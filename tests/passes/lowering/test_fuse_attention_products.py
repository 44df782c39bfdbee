"""Both attention products become operators on packed keys and values."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import activation, calls, export, run
from torch import Tensor, nn

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.fuse_attention_products import FuseAttentionProducts
from tbt_compile.quantizers import quantized_matmul

Q, K, V = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 70, 8), torch.randn(2, 3, 70, 8)
MASK = torch.where(torch.rand(2, 1, 4, 70) < 0.3, torch.finfo(torch.float32).min, 0.0)


class Attention(nn.Module):
    def __init__(self, bits: int = 2, value_bits: int | None = None) -> None:
        super().__init__()
        self.q, self.k, self.p = activation(bits), activation(bits, scale=0.9), activation(bits, False, 0.05)
        self.v = activation(value_bits or bits)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = quantized_matmul(self.q(q), self.k(k), True) * 0.25 + mask
        return quantized_matmul(self.p(torch.softmax(scores, -1)), self.v(v), False)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_both_products_are_fused(bits: int) -> None:
    unit = export(Attention(bits), Q, K, V, MASK)
    expected = run(unit, Q, K, V, MASK)
    result = run_pass(FuseAttentionProducts(), unit)
    assert (result.changes, result.note) == (2, "0 products stay in floating point")
    names = ["pack_keys", "attention_scores", "mul", "add", "softmax", "pack_values", "attention_context"]
    assert calls(unit) == names
    assert torch.equal(run(unit, Q, K, V, MASK)[0], expected[0])


@pytest.mark.parametrize(("bits", "value_bits"), [(1, 2), (2, 1), (2, 8), (8, 2)])
def test_values_of_other_bits_than_the_probabilities(bits: int, value_bits: int) -> None:
    unit = export(Attention(bits, value_bits), Q, K, V, MASK)
    expected = run(unit, Q, K, V, MASK)
    assert run_pass(FuseAttentionProducts(), unit).changes == 2
    assert torch.equal(run(unit, Q, K, V, MASK)[0], expected[0])


class OtherProducts(nn.Module):
    """A product of floats, one with codes on one side, and one whose scale belongs to something else."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = activation(2), activation(2)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        plain = q @ k.transpose(-1, -2)
        half = self.q(q).codes @ k.transpose(-1, -2)
        other = self.q(q).codes @ self.k(k).codes.transpose(-1, -2) * (self.q(2 * q).scale * self.k(k).scale)
        return plain + half + other


def test_what_is_no_quantized_product_is_left_alone() -> None:
    unit = export(OtherProducts(), Q, K)
    result = run_pass(FuseAttentionProducts(), unit)
    assert (result.changes, result.note) == (0, "3 products stay in floating point")
    assert calls(unit).count("matmul") == 3


def test_golden() -> None:
    check_pass(FuseAttentionProducts(), export(Attention(), Q, K, V, MASK))
