"""The softmax of attention scores takes the scale and the mask."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import activation, calls, export, run
from torch import Tensor, nn

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.fuse_attention_products import FuseAttentionProducts
from tbt_compile.passes.lowering.fuse_masked_softmax import FuseMaskedSoftmax
from tbt_compile.quantizers import quantized_matmul

Q, K = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 70, 8)
MASK = torch.where(torch.rand(2, 1, 4, 70) < 0.3, torch.finfo(torch.float32).min, 0.0)


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
    run_pass(CleanUp(), unit)
    run_pass(FuseAttentionProducts(), unit)
    fused = run_pass(FuseMaskedSoftmax(), unit)
    assert calls(unit) == left
    assert fused.changes == left.count("masked_softmax")
    assert torch.equal(run(unit, Q, K, MASK)[0], expected[0])


def test_golden() -> None:
    unit = export(Softmax("both"), Q, K, MASK)
    run_pass(FuseAttentionProducts(), unit)
    check_pass(FuseMaskedSoftmax(), unit)


@pytest.mark.parametrize(
    ("mask", "fused"),
    [
        (MASK, 1),
        (MASK[:, :, :1], 1),
        (MASK[:1], 0),  # a causal buffer [1, 1, Q, T]
        (MASK[..., :1], 0),
        (MASK > 0, 0),
        (MASK.double(), 0),
    ],
)
def test_only_masks_that_the_kernel_reads_are_fused(mask: Tensor, fused: int) -> None:
    unit = export(Softmax("masked"), Q, K, mask)
    expected = run(unit, Q, K, mask)
    run_pass(CleanUp(), unit)
    run_pass(FuseAttentionProducts(), unit)
    assert run_pass(FuseMaskedSoftmax(), unit).changes == fused
    assert torch.equal(run(unit, Q, K, mask)[0], expected[0])
