"""Attention operators take heads as linear layers have them, where a model moves them to and from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_text import check_pass
from lowering_tools import activation, calls, export, run
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering import CacheSlot, LoweringContext, lowering_pipeline
from tbt_compile.passes.lowering.fold_head_transposes import FoldHeadTransposes
from tbt_compile.quantizers import quantized_matmul

HEADS, WIDTH = 3, 8


class Attention(nn.Module):
    """Attention over views of rows, with or without a cache, and what is done with its output."""

    def __init__(self, bits: int, use: str = "") -> None:
        super().__init__()
        self.use = use
        self.q, self.k, self.v = activation(bits), activation(bits, scale=0.9), activation(bits, scale=0.5)
        self.p = activation(bits, False, 0.05)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, caches: list[Tensor]) -> tuple[Tensor, ...]:
        q, k, v = (x.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for x in (q, k, v))
        if self.use == "query as it is":
            q = q.transpose(1, 2).flatten(1, 2).unflatten(1, (HEADS, -1))
        if caches:
            k, v = torch.cat([caches[0], k], dim=2), torch.cat([caches[1], v], dim=2)
        weights = self.p(torch.softmax(quantized_matmul(self.q(q), self.k(k), True) * 0.5, -1))
        output = quantized_matmul(weights, self.v(v), False)
        if self.use == "output as it is":
            return output, output.transpose(1, 2)
        output = output.transpose(1, 2).flatten(2)
        return (output, k, v) if caches else (output,)


def rows(count: int) -> Tensor:
    return torch.randn(2, count, HEADS * WIDTH)


def unit_of(bits: int, use: str = "", cached: bool = False) -> LoweringContext:
    caches = [torch.randn(2, HEADS, 11, WIDTH) for _ in range(2 * cached)]
    slots = (CacheSlot("caches_0", "caches_1", 1, 2),) if cached else ()
    dims: Any = [{0: Dim.DYNAMIC, 1: Dim.DYNAMIC}] * 3 + [[{0: Dim.DYNAMIC, 2: Dim.DYNAMIC}] * len(caches)]
    arguments = (rows(4), rows(5), rows(5), caches)
    return export(Attention(bits, use), *arguments, caches=slots, dims=tuple(dims))


def until_transposes(unit: LoweringContext) -> LoweringContext:
    pipeline = lowering_pipeline()
    for step in pipeline.passes:
        if step.name == "fold-head-transposes":
            return unit
        run_pass(step, unit)
    raise AssertionError("the pipeline has no such pass")


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_nothing_is_moved(bits: int, cached: bool) -> None:
    unit, reference = (until_transposes(unit_of(bits, cached=cached)) for _ in range(2))
    assert calls(unit).count("transpose") == 4
    assert run_pass(FoldHeadTransposes(), unit).changes == 3
    unit.graph.lint()
    assert "transpose" not in calls(unit)
    caches = []
    if cached:
        kinds = ({1: "binary", 2: "ternary", 8: "int8"}[bits], bits < 8)
        start = torch.randn(2, HEADS, 11, WIDTH)
        caches = [
            torch.ops.tbt.pack_keys(start, torch.tensor(0.9), *kinds),
            torch.ops.tbt.pack_values(start, torch.tensor(0.5), *kinds),
        ]
    inputs = (rows(4), rows(5), rows(5), *caches)
    for got, expected in zip(run(unit, *inputs), run(reference, *inputs), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(("use", "changes"), [("query as it is", 2), ("output as it is", 2)])
def test_attention_keeps_its_order_where_one_side_has_it(use: str, changes: int) -> None:
    unit, reference = (until_transposes(unit_of(2, use)) for _ in range(2))
    assert run_pass(FoldHeadTransposes(), unit).changes == changes
    (attention,) = [node for node in unit.graph.nodes if str(node.target) == "tbt.attention.default"]
    assert not operands(attention).heads_last
    inputs = (rows(4), rows(4), rows(4))
    for got, expected in zip(run(unit, *inputs), run(reference, *inputs), strict=True):
        assert torch.equal(got, expected)


def test_golden() -> None:
    check_pass(FoldHeadTransposes(), until_transposes(unit_of(2)))


class Moved(nn.Module):
    """Keys that are transposed twice before they are packed."""

    def forward(self, k: Tensor) -> Tensor:
        return torch.ops.tbt.pack_keys(k.transpose(1, 2).transpose(1, 2), torch.tensor(0.5), "ternary", False)


def test_only_one_transpose_is_folded() -> None:
    keys = torch.randn(2, HEADS, 5, WIDTH)
    unit = export(Moved(), keys)
    expected = run(unit, keys)
    for changes in (1, 0):
        assert run_pass(FoldHeadTransposes(), unit).changes == changes
        assert torch.equal(run(unit, keys)[0], expected[0])
