"""Normalisation by the root mean square, as models write it out, becomes one operator."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import calls, export, run
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.fuse_rms_norm import FuseRmsNorm

X = torch.randn(2, 3, 16)


@pytest.mark.parametrize("norm", [LlamaRMSNorm(16, 1e-5), T5LayerNorm(16)])
def test_a_norm_that_is_written_out_is_fused(norm: nn.Module) -> None:
    norm.weight.data.uniform_(0.5, 2.0)
    unit = export(norm, X)
    expected = run(unit, X)
    run_pass(CleanUp(), unit)
    assert calls(unit) == ["pow", "mean", "add", "rsqrt", "mul", "mul"]
    assert run_pass(FuseRmsNorm(), unit).changes == 1
    assert calls(unit) == ["rms_norm"]
    torch.testing.assert_close(run(unit, X)[0], expected[0], rtol=1e-6, atol=1e-6)


class Other(nn.Module):
    """Nearly a norm: another power, another dimension, another tensor, or no weight."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.weight, self.form = nn.Parameter(torch.rand(16)), form

    def forward(self, x: Tensor) -> Tensor:
        square = x.pow(4 if self.form == "power" else 2)
        mean = square.mean(1 if self.form == "dimension" else -1, keepdim=True)
        y = (x + 1 if self.form == "tensor" else x) * torch.rsqrt(mean + 1e-5)
        return y * 2.0 if self.form == "weight" else self.weight * y


@pytest.mark.parametrize("form", ["power", "dimension", "tensor", "weight"])
def test_anything_else_is_left_alone(form: str) -> None:
    unit = export(Other(form), X)
    run_pass(CleanUp(), unit)
    before = calls(unit)
    assert run_pass(FuseRmsNorm(), unit).changes == 0
    assert calls(unit) == before


def test_golden() -> None:
    unit = export(LlamaRMSNorm(16, 1e-5), X)
    run_pass(CleanUp(), unit)
    check_pass(FuseRmsNorm(), unit)


def test_a_gain_of_another_size_is_left_alone() -> None:
    norm = LlamaRMSNorm(16, 1e-5)
    norm.weight = nn.Parameter(torch.full((1,), 2.0))
    unit = export(norm, X)
    expected = run(unit, X)
    run_pass(CleanUp(), unit)
    assert run_pass(FuseRmsNorm(), unit).changes == 0
    assert torch.equal(run(unit, X)[0], expected[0])
