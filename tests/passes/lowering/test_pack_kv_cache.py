"""Caches stay packed: appending packed tokens equals packing what was appended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_text import check_pass
from lowering_tools import activation, calls, export, run
from torch import Tensor, nn
from torch.export import Dim

from tbt_compile.passes.base import run_pass
from tbt_compile.passes.lowering import CacheSlot, LoweringContext
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.fuse_attention_products import FuseAttentionProducts
from tbt_compile.passes.lowering.pack_kv_cache import PackKVCache
from tbt_compile.quantizers import quantized_matmul

BATCH, HEADS, WIDTH = 2, 3, 8


class Attention(nn.Module):
    """Attention with a cache that grows, is only read, or is only made."""

    def __init__(self, bits: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.q, self.k, self.v = activation(bits), activation(bits, scale=0.9), activation(bits, scale=0.5)
        self.p = activation(bits, False, 0.05)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, caches: list[Tensor]) -> tuple[Tensor, ...]:
        if self.mode == "grows":
            k, v = torch.cat([caches[0], k], dim=2), torch.cat([caches[1], v], dim=2)
        elif self.mode == "is read":
            k, v = caches
        scores = quantized_matmul(self.q(q), self.k(k), True)
        output = quantized_matmul(self.p(torch.softmax(scores, -1)), self.v(v), False)
        return (output,) if self.mode == "is read" else (output, k, v)


def tokens(count: int) -> Tensor:
    return torch.randn(BATCH, HEADS, count, WIDTH)


def attention_unit(bits: int, mode: str) -> LoweringContext:
    """The unit, fused and ready to be packed; every length is dynamic."""
    module = Attention(bits, mode)
    names = (None, None) if mode == "is made" else ("caches_0", "caches_1")
    outputs = (None, None) if mode == "is read" else (1, 2)
    caches = [] if mode == "is made" else [tokens(11), tokens(11)]
    dims: Any = [{0: Dim.DYNAMIC, 2: Dim.DYNAMIC}] * 3 + [[{0: Dim.DYNAMIC, 2: Dim.DYNAMIC}] * len(caches)]
    if mode == "is read":
        dims[1] = dims[2] = None
    arguments = (tokens(4), tokens(5), tokens(5), caches)
    unit = export(module, *arguments, caches=(CacheSlot(*names, *outputs),), dims=tuple(dims))
    run_pass(CleanUp(), unit)
    run_pass(FuseAttentionProducts(), unit)
    return unit


def pack(unit: LoweringContext, bits: int, keys: Tensor, values: Tensor) -> list[Tensor]:
    """A float cache as the unit packs it."""
    tbt, encoding = torch.ops.tbt, {1: "binary", 2: "ternary", 8: "int8"}[bits]
    center = bits < 8
    return [
        tbt.pack_keys(keys, torch.tensor(0.9), encoding, center),
        tbt.pack_values(values, torch.tensor(0.5), encoding, center),
    ]


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_a_growing_cache(bits: int) -> None:
    unit = attention_unit(bits, "grows")
    reference = attention_unit(bits, "grows")
    assert PackKVCache().apply(unit).changes == 2
    appended = ["append_keys", "append_values" if bits < 8 else "append_keys"]
    assert [name for name in calls(unit) if name.startswith(("cat", "append"))] == appended
    unit.graph.lint()
    keys, values = tokens(60), tokens(60)
    packed = pack(unit, bits, keys, values)
    for count in (1, 1, 2, 1, 1, 3, 66):  # up to, onto and over the end of a word
        q, k, v = tokens(count), tokens(count), tokens(count)
        output, keys, values = run(reference, q, k, v, keys, values)
        packed_output, *packed = run(unit, q, k, v, *packed)
        assert torch.equal(packed_output, output)
        for got, expected in zip(packed, pack(unit, bits, keys, values), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_a_cache_that_is_only_read(bits: int) -> None:
    unit = attention_unit(bits, "is read")
    assert PackKVCache().apply(unit).changes == 2
    assert not [name for name in calls(unit) if name.startswith("pack")]
    q, keys, values = tokens(2), tokens(70), tokens(70)
    dummy = tokens(5)
    expected = run(attention_unit(bits, "is read"), q, dummy, dummy, keys, values)
    got = run(unit, q, dummy, dummy, *pack(unit, bits, keys, values))
    assert torch.equal(got[0], expected[0])


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_a_cache_that_is_made(bits: int) -> None:
    unit = attention_unit(bits, "is made")
    assert PackKVCache().apply(unit).changes == 2
    q, keys, values = tokens(2), tokens(70), tokens(70)
    output, *packed = run(unit, q, keys, values)
    assert torch.equal(output, run(attention_unit(bits, "is made"), q, keys, values)[0])
    assert all(torch.equal(*pair) for pair in zip(packed, pack(unit, bits, keys, values), strict=True))


@pytest.mark.parametrize(("bits", "rows", "words"), [(1, 1, 1), (2, 2, 2)])
def test_inputs_take_the_packed_shapes(bits: int, rows: int, words: int) -> None:
    unit = attention_unit(bits, "grows")
    PackKVCache().apply(unit)
    shapes = {node.name: node.meta["val"] for node in unit.graph.nodes if node.op == "placeholder"}
    keys, values = shapes["caches_0"], shapes["caches_1"]
    assert keys.dtype == values.dtype == torch.int64
    assert tuple(keys.shape[1::2]) == (HEADS, words)
    assert tuple(values.shape[i] for i in (1, 3, 4)) == (HEADS, rows, WIDTH)
    assert str(keys.shape[2]) != str(values.shape[2])  # tokens and words: two lengths


class Unquantized(nn.Module):
    def forward(self, q: Tensor, k: Tensor, caches: list[Tensor]) -> tuple[Tensor, ...]:
        keys = torch.cat([caches[0], k], dim=2)
        return q @ keys.transpose(-1, -2), keys, caches[1]


def test_a_cache_of_floats_stays_one() -> None:
    slot = CacheSlot("caches_0", "caches_1", 1, 2)
    unit = export(Unquantized(), tokens(2), tokens(2), [tokens(3), tokens(3)], caches=(slot,))
    before = calls(unit)
    assert PackKVCache().apply(unit).changes == 0
    assert calls(unit) == before


def test_golden() -> None:
    check_pass(PackKVCache(), attention_unit(2, "grows"))
