"""Keys and values that several query heads share are packed once."""

from __future__ import annotations

import pytest
import torch
from golden_text import check_pass
from lowering_tools import activation, calls, export, run
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import repeat_kv

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.fold_repeat_kv import FoldRepeatKV
from tbt_compile.passes.lowering.fuse_attention_products import FuseAttentionProducts
from tbt_compile.quantizers import quantized_matmul

Q, K, V = torch.randn(2, 6, 4, 8), torch.randn(2, 3, 70, 8), torch.randn(2, 3, 70, 8)


class Grouped(nn.Module):
    """Attention of six query heads on three heads of keys and values."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.q, self.k, self.v = activation(bits), activation(bits, scale=0.9), activation(bits)
        self.p = activation(bits, False, 0.05)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = quantized_matmul(self.q(q), self.k(repeat_kv(k, 2)), True)
        return quantized_matmul(self.p(torch.softmax(scores, -1)), self.v(repeat_kv(v, 2)), False)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_repeated_heads_are_packed_once(bits: int) -> None:
    unit = export(Grouped(bits), Q, K, V)
    expected = run(unit, Q, K, V)
    run_pass(CleanUp(), unit)
    run_pass(FuseAttentionProducts(), unit)
    repeated = ["unsqueeze", "expand", "reshape"]
    assert set(repeated) < set(calls(unit))
    assert run_pass(FoldRepeatKV(), unit).changes == 2
    assert calls(unit) == ["pack_keys", "attention_scores", "softmax", "pack_values", "attention_context"]
    assert torch.equal(run(unit, Q, K, V)[0], expected[0])


class Float(nn.Module):
    """The same attention in full precision."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ repeat_kv(k, 2).transpose(2, 3)
        return torch.softmax(scores, -1) @ repeat_kv(v, 2)


def test_products_of_floats_read_each_head_once() -> None:
    unit = export(Float(), Q, K, V)
    expected = run(unit, Q, K, V)
    run_pass(CleanUp(), unit)
    assert run_pass(FoldRepeatKV(), unit).changes == 2
    run_pass(CleanUp(), unit)
    folded = ["reshape", "transpose", "matmul", "reshape"]
    assert calls(unit) == [*folded, "softmax", "reshape", "matmul", "reshape"]
    torch.testing.assert_close(run(unit, Q, K, V)[0], expected[0])


class Tiled(nn.Module):
    """Heads repeated in another order: 0 1 2 0 1 2."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = activation(2), activation(2)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        tiled = k[:, None].expand(2, 2, 3, 70, 8).reshape(2, 6, 70, 8)
        return quantized_matmul(self.q(q), self.k(tiled), True)


def test_another_order_is_left_alone() -> None:
    unit = export(Tiled(), Q, K)
    expected = run(unit, Q, K)
    run_pass(CleanUp(), unit)
    run_pass(FuseAttentionProducts(), unit)
    before = calls(unit)
    assert run_pass(FoldRepeatKV(), unit).changes == 0
    assert calls(unit) == before
    assert torch.equal(run(unit, Q, K)[0], expected[0])


def test_golden() -> None:
    unit = export(Grouped(2), Q, K, V)
    run_pass(FuseAttentionProducts(), unit)
    check_pass(FoldRepeatKV(), unit)


class Prefix(nn.Module):
    """Keys that are the same for every row of a batch."""

    def forward(self, k: Tensor) -> Tensor:
        repeated = k[:, :, None].expand(4, 3, 2, 70, 8).reshape(4, 6, 70, 8)
        return torch.ops.tbt.pack_keys(repeated, torch.tensor(0.5), "ternary", False)


def test_a_repeat_over_the_batch_stays() -> None:
    unit = export(Prefix(), K[:1])
    expected = run(unit, K[:1])
    run_pass(CleanUp(), unit)
    assert run_pass(FoldRepeatKV(), unit).changes == 0
    assert torch.equal(run(unit, K[:1])[0], expected[0])
