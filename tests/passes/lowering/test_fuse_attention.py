"""Both products of attention and the softmax between them become one operator."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import activation, calls, export, run
from torch import Tensor, nn

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.fuse_attention import FuseAttention
from tbt_compile.passes.lowering.fuse_attention_products import FuseAttentionProducts
from tbt_compile.passes.lowering.fuse_masked_softmax import FuseMaskedSoftmax
from tbt_compile.quantizers import quantized_matmul

Q, K, V = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 70, 8), torch.randn(2, 3, 70, 8)
MASK = torch.where(torch.rand(2, 1, 4, 70) < 0.3, torch.finfo(torch.float32).min, 0.0)
POSITIONS = torch.randn(1, 3, 4, 70)


class Attention(nn.Module):
    """Attention of `bits`; `kind` says what is done with the scores."""

    def __init__(self, bits: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.q, self.k, self.p = activation(bits), activation(bits, scale=0.9), activation(bits, False, 0.05)
        self.v = activation(bits)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, added: Tensor) -> Tensor:
        scores = quantized_matmul(self.q(q), self.k(k), True) * 0.25
        if self.kind != "unmasked":
            scores = scores + added
        weights = torch.softmax(scores, -1)
        out = quantized_matmul(self.p(weights), self.v(v), False)
        return out + weights.sum() if self.kind == "weights are read" else out


def fused(bits: int, kind: str, added: Tensor) -> tuple[int, list[str]]:
    """Changes of the pass, and the operators that are left; results must stay the same, bit for bit."""
    unit = export(Attention(bits, kind), Q, K, V, added)
    for before in (CleanUp(), FuseAttentionProducts(), FuseMaskedSoftmax()):
        run_pass(before, unit)
    expected = run(unit, Q, K, V, added)
    result = run_pass(FuseAttention(), unit)
    assert torch.equal(run(unit, Q, K, V, added)[0], expected[0])
    assert result.note == f"{1 - result.changes} attentions keep their scores in memory"
    return result.changes, calls(unit)


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("kind", ["masked", "unmasked"])
def test_one_operator(bits: int, kind: str) -> None:
    assert fused(bits, kind, MASK) == (1, ["pack_keys", "pack_values", "attention"])


def test_relative_positions_stay_between() -> None:
    changes, left = fused(2, "relative positions", POSITIONS)
    assert changes == 0
    assert "attention_scores" in left and "attention_context" in left


def test_probabilities_that_something_else_reads_stay() -> None:
    changes, left = fused(2, "weights are read", MASK)
    assert changes == 0
    assert "masked_softmax" in left


def test_golden() -> None:
    unit = export(Attention(2, "masked"), Q, K, V, MASK)
    for before in (CleanUp(), FuseAttentionProducts(), FuseMaskedSoftmax()):
        run_pass(before, unit)
    check_pass(FuseAttention(), unit)
