"""Layer normalisation takes the residual sum that it alone reads."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import calls, export, run
from torch import Tensor, nn

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.fuse_add_layer_norm import FuseAddLayerNorm

X, Y = torch.randn(2, 3, 8), torch.randn(2, 3, 8)


class Norm(nn.Module):
    def __init__(self, form: str = "residual", **options: object) -> None:
        super().__init__()
        self.form = form
        self.norm = nn.LayerNorm((3, 8) if form == "two dimensions" else 8, **options)  # type: ignore[arg-type]
        if self.norm.weight is not None:
            nn.init.normal_(self.norm.weight)
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.form == "read twice":
            total = x + y
            return self.norm(total) + total
        if self.form == "a bias":
            return self.norm(x + self.bias)
        if self.form == "a number":
            return self.norm(x + 1.0)
        if self.form == "a multiple":
            return self.norm(torch.add(x, y, alpha=2))
        return self.norm(x * y if self.form == "a product" else x + y)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_a_residual_sum_is_fused(eps: float) -> None:
    unit = export(Norm(eps=eps), X, Y)
    expected = run(unit, X, Y)
    assert run_pass(FuseAddLayerNorm(), unit).changes == 1
    assert calls(unit) == ["add_layer_norm"]
    assert torch.equal(run(unit, X, Y)[0], expected[0])


@pytest.mark.parametrize(
    "form", ["read twice", "a bias", "a number", "a multiple", "a product", "two dimensions"]
)
def test_other_sums_are_left_alone(form: str) -> None:
    unit = export(Norm(form), X, Y)
    before = calls(unit)
    assert run_pass(FuseAddLayerNorm(), unit).changes == 0
    assert calls(unit) == before


@pytest.mark.parametrize("options", [{"elementwise_affine": False}, {"bias": False}])
def test_a_norm_without_weight_or_bias_is_left_alone(options: dict[str, bool]) -> None:
    unit = export(Norm(**options), X, Y)
    assert run_pass(FuseAddLayerNorm(), unit).changes == 0
    assert calls(unit) == ["add", "layer_norm"]


def test_golden() -> None:
    check_pass(FuseAddLayerNorm(), export(Norm(), X, Y))
