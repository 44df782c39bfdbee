"""Torch forms of the compiled operators: equal, bit for bit, to the products that training computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tbt_compile.ops  # noqa: F401  (registers torch.ops.tbt)
from tbt_compile.encoding import Encoding
from tbt_compile.ops.quantize import pack, quantize, unpack
from tbt_compile.quantizers import QuantTensor, quantized_embedding, quantized_linear, quantized_matmul

TBT = torch.ops.tbt
SIGNED = [Encoding.BINARY, Encoding.TERNARY, Encoding.INT8]
UNSIGNED = [Encoding.BINARY01, Encoding.TERNARY012, Encoding.UINT8]
SCALE, OTHER = torch.tensor(0.6), torch.tensor(0.9)
WIDTHS = (1, 63, 65)


def weight_of(encoding: Encoding, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    levels = torch.tensor(encoding.levels)
    return pack(levels[torch.randint(len(levels), (rows, columns))], encoding), torch.rand(rows, 1) + 0.1


def check_export(operator: Any, *arguments: Any) -> None:
    torch.library.opcheck(operator.default, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("x_encoding", [*SIGNED, *UNSIGNED])
@pytest.mark.parametrize("weight_encoding", SIGNED)
def test_bit_linear(x_encoding: Encoding, weight_encoding: Encoding) -> None:
    center = x_encoding in (Encoding.BINARY, Encoding.TERNARY)
    for rows, columns in ((1, 1), (7, 63), (50, 65)):
        packed, weight_scale = weight_of(weight_encoding, rows, columns)
        x, bias = torch.randn(2, 3, columns), torch.randn(rows)
        weight = QuantTensor(unpack(packed, weight_encoding.value, columns), weight_scale)
        codes = QuantTensor(*quantize(x, SCALE, x_encoding.value, center))
        options = (x_encoding.value, weight_encoding.value, center, columns)
        for added in (bias, None):
            fused = TBT.bit_linear(x, SCALE, packed, weight_scale, added, *options)
            assert torch.equal(fused, quantized_linear(codes, weight, added))
            curved = TBT.bit_linear(x, SCALE, packed, weight_scale, added, *options, "gelu")
            assert torch.equal(curved, F.gelu(fused))
    check_export(TBT.bit_linear, x, SCALE, packed, weight_scale, bias, *options)


@pytest.mark.parametrize("encoding", SIGNED)
def test_bit_embedding(encoding: Encoding) -> None:
    packed, scale = weight_of(encoding, 50, 65)
    ids = torch.tensor([[0, 49, 7], [7, 7, 1]])
    expected = quantized_embedding(ids, QuantTensor(unpack(packed, encoding.value, 65), scale))
    assert torch.equal(TBT.bit_embedding(ids, packed, scale, encoding.value, 65), expected)
    check_export(TBT.bit_embedding, ids, packed, scale, encoding.value, 65)


@pytest.mark.parametrize("encoding", SIGNED)
@pytest.mark.parametrize("center", [False, True])
def test_scores_of_packed_keys(encoding: Encoding, center: bool) -> None:
    for width in WIDTHS:
        query, keys = torch.randn(2, 3, 4, width), torch.randn(2, 3, 5, width)
        packed = TBT.pack_keys(keys, OTHER, encoding.value, center)
        scores = TBT.attention_scores(query, SCALE, packed, OTHER, encoding.value, encoding.value, center)
        q = QuantTensor(*quantize(query, SCALE, encoding.value, center))
        k = QuantTensor(*quantize(keys, OTHER, encoding.value, center))
        assert torch.equal(scores, quantized_matmul(q, k, True))
        # Keys are appended row by row: packing one token at a time gives the same cache.
        rows = [TBT.pack_keys(keys[:, :, i : i + 1], OTHER, encoding.value, center) for i in range(5)]
        assert torch.equal(torch.cat(rows, dim=2), packed)
    check_export(TBT.pack_keys, keys, OTHER, encoding.value, center)
    check_export(TBT.attention_scores, query, SCALE, packed, OTHER, encoding.value, encoding.value, center)


@pytest.mark.parametrize(("weights_encoding", "encoding"), list(zip(UNSIGNED, SIGNED, strict=True)))
def test_context_of_packed_values(weights_encoding: Encoding, encoding: Encoding) -> None:
    for tokens, width in ((1, 1), (63, 5), (65, 7), (130, 3)):
        weights, values = torch.rand(2, 3, 4, tokens), torch.randn(2, 3, tokens, width)
        packed = TBT.pack_values(values, OTHER, encoding.value, False)
        context = TBT.attention_context(
            weights, SCALE, packed, OTHER, weights_encoding.value, encoding.value, False
        )
        p = QuantTensor(*quantize(weights, SCALE, weights_encoding.value, False))
        v = QuantTensor(*quantize(values, OTHER, encoding.value, False))
        assert torch.equal(context, quantized_matmul(p, v, False))
    check_export(TBT.pack_values, values, OTHER, encoding.value, False)
    options = (weights_encoding.value, encoding.value, False)
    check_export(TBT.attention_context, weights, SCALE, packed, OTHER, *options)


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY, Encoding.INT8])
def test_appended_keys_equal_keys_packed_at_once(encoding: Encoding) -> None:
    keys = torch.randn(2, 3, 7, 5)
    before = TBT.pack_keys(keys[:, :, :4], OTHER, encoding.value, True)
    arguments = (before, keys[:, :, 4:], OTHER, encoding.value, True)
    assert torch.equal(TBT.append_keys(*arguments), TBT.pack_keys(keys, OTHER, encoding.value, True))
    check_export(TBT.append_keys, *arguments)


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("past", "new"), [(1, 1), (62, 1), (63, 1), (64, 1), (63, 66), (10, 5)])
def test_appended_values_equal_values_packed_at_once(
    encoding: Encoding, center: bool, past: int, new: int
) -> None:
    values = torch.randn(2, 3, past + new, 5)
    before = TBT.pack_values(values[:, :, :past], OTHER, encoding.value, center)
    past_keys = torch.zeros(2, 3, past, 1, dtype=torch.int64)  # only their number is read
    arguments = (before, past_keys, values[:, :, past:], OTHER, encoding.value, center)
    assert torch.equal(TBT.append_values(*arguments), TBT.pack_values(values, OTHER, encoding.value, center))
    check_export(TBT.append_values, *arguments)


def test_eight_bit_rows_hold_codes_and_the_scale_of_their_token() -> None:
    keys = torch.randn(1, 1, 3, 6)
    rows = TBT.pack_keys(keys, OTHER, "int8", False)
    codes, scales = quantize(keys, OTHER, "int8", False)
    assert rows.shape == (1, 1, 3, 10)
    assert torch.equal(rows[..., :6].float(), codes)
    assert torch.equal(rows[..., 6:].contiguous().view(torch.float32), scales)


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
