"""Both attention products become operators on packed keys and values."""

from __future__ import annotations

import pytest
import torch
from lowering_tools import activation, calls, export, run
from torch import Tensor, nn

from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.fuse_attention_products import FuseAttentionProducts
from tbt_compile.passes.lowering.fuse_masked_softmax import FuseMaskedSoftmax
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
    result = FuseAttentionProducts().apply(unit)
    assert (result.changes, result.note) == (2, "0 products stay in floating point")
    names = ["pack_keys", "attention_scores", "mul", "add", "softmax", "pack_values", "attention_context"]
    assert calls(unit) == names
    assert torch.equal(run(unit, Q, K, V, MASK)[0], expected[0])


@pytest.mark.parametrize(("bits", "value_bits"), [(1, 2), (2, 1), (2, 8), (8, 2)])
def test_values_of_other_bits_than_the_probabilities(bits: int, value_bits: int) -> None:
    unit = export(Attention(bits, value_bits), Q, K, V, MASK)
    expected = run(unit, Q, K, V, MASK)
    assert FuseAttentionProducts().apply(unit).changes == 2
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
    result = FuseAttentionProducts().apply(unit)
    assert (result.changes, result.note) == (0, "3 products stay in floating point")
    assert calls(unit).count("matmul") == 3


class Softmax(nn.Module):
    """Scores on their way to a softmax, in the forms that models have."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.q, self.k, self.form = activation(2), activation(2), form

    def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        scores = quantized_matmul(self.q(q), self.k(k), True)
        if self.form == "scaled":
            return torch.softmax(scores * 0.25, -1)
        if self.form == "masked":
            return torch.softmax(scores + mask, dim=3)
        if self.form == "both":
            return torch.softmax(scores * 0.25 + mask, -1)
        if self.form == "positions":  # per head, as in T5
            return torch.softmax(scores + mask.expand(-1, 3, -1, -1), -1)
        if self.form == "over heads":
            return torch.softmax(scores, 1)
        if self.form == "read twice":
            masked = scores + mask
            return torch.softmax(masked, -1) * masked
        return torch.softmax(q, -1)


@pytest.mark.parametrize(
    ("form", "left"),
    [
        ("scaled", ["pack_keys", "attention_scores", "masked_softmax"]),
        ("masked", ["pack_keys", "attention_scores", "masked_softmax"]),
        ("both", ["pack_keys", "attention_scores", "masked_softmax"]),
        ("positions", ["pack_keys", "attention_scores", "expand", "add", "softmax"]),
        ("over heads", ["pack_keys", "attention_scores", "softmax"]),
        ("read twice", ["pack_keys", "attention_scores", "add", "softmax", "mul"]),
        ("of something else", ["softmax"]),
    ],
)
def test_softmax_takes_scale_and_mask(form: str, left: list[str]) -> None:
    unit = export(Softmax(form), Q, K, MASK)
    expected = run(unit, Q, K, MASK)
    CleanUp().apply(unit)
    FuseAttentionProducts().apply(unit)
    fused = FuseMaskedSoftmax().apply(unit)
    assert calls(unit) == left
    assert fused.changes == left.count("masked_softmax")
    assert torch.equal(run(unit, Q, K, MASK)[0], expected[0])
