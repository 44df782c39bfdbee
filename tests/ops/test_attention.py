"""Attention on packed keys and values: equal, bit for bit, to the products that training computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operator_tools import (
    BRIEF,
    FEW,
    LENGTHS,
    OTHER,
    SCALE,
    SIGNED,
    TBT,
    UNSIGNED,
    check_export,
    check_fake,
    heads,
)
from torch import Tensor

from tbt_compile.encoding import Encoding
from tbt_compile.ops.quantize import quantize
from tbt_compile.quantizers import QuantTensor, quantized_matmul

WIDTHS = (1, 63, 65)


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


@st.composite
def calls(draw: st.DrawFn) -> tuple[tuple[int, int, int], Tensor, Tensor, Encoding, Encoding]:
    """(batch, heads and queries), packed keys and values of as many heads or fewer, and their encodings."""
    batch, shared, copies, queries = (draw(FEW) for _ in range(4))
    tokens, width = draw(LENGTHS), draw(LENGTHS)
    keys, values = (torch.randn(batch, shared, tokens, width) for _ in range(2))
    key_encoding, value_encoding = draw(st.sampled_from(SIGNED)), draw(st.sampled_from(SIGNED))
    packed_keys = TBT.pack_keys(keys, OTHER, key_encoding.value, False)
    packed_values = TBT.pack_values(values, OTHER, value_encoding.value, False)
    return (batch, shared * copies, queries), packed_keys, packed_values, key_encoding, value_encoding


@BRIEF
@given(calls(), st.sampled_from(SIGNED), st.integers(0, 63), st.booleans())
def test_fakes_of_attention_and_its_products(
    call: tuple[tuple[int, int, int], Tensor, Tensor, Encoding, Encoding],
    query_encoding: Encoding,
    padding: int,
    heads_last: bool,
) -> None:
    (batch, count, queries), keys, values, key_encoding, value_encoding = call
    planes = key_encoding.planes
    width = 64 * keys.shape[3] // planes - padding if planes else keys.shape[3] - 4
    first = (query_encoding.value, key_encoding.value, False)
    second = ("ternary012", value_encoding.value, False)
    query = heads(batch, count, queries, width, False)
    check_fake(TBT.attention_scores, query, SCALE, keys, OTHER, *first)
    weights = torch.rand(batch, count, queries, keys.shape[2])
    check_fake(TBT.attention_context, weights, SCALE, values, OTHER, *second)
    query = heads(batch, count, queries, width, heads_last)
    for mask in (None, torch.zeros(batch, 1, queries, keys.shape[2])):
        operands = (query, SCALE, keys, OTHER, mask, 0.5, SCALE, values, OTHER)
        check_fake(TBT.attention, *operands, *first, *second, heads_last)


@BRIEF
@given(FEW, FEW, FEW, LENGTHS, FEW)
def test_heads_last_is_the_same_attention(
    batch: int, count: int, queries: int, tokens: int, width: int
) -> None:
    query, keys, values = (heads(batch, count, length, width, False) for length in (queries, tokens, tokens))
    packed = TBT.pack_keys(keys, OTHER, "binary", False), TBT.pack_values(values, OTHER, "ternary", False)
    operands = (SCALE, packed[0], OTHER, None, 0.5, SCALE, packed[1], OTHER)
    options = ("ternary", "binary", True, "binary01", "ternary", False)
    expected = TBT.attention(query, *operands, *options)
    turned = TBT.attention(query.transpose(1, 2).contiguous(), *operands, *options, True)
    assert torch.equal(turned.transpose(1, 2), expected)


def test_query_heads_share_keys_and_values() -> None:
    query, keys, values = torch.randn(2, 6, 3, 5), torch.randn(2, 2, 7, 5), torch.randn(2, 2, 7, 5)

    def attend(keys: Tensor, values: Tensor, encoding: str) -> Tensor:
        packed = TBT.pack_keys(keys, OTHER, encoding, False), TBT.pack_values(values, OTHER, encoding, False)
        operands = (query, SCALE, packed[0], OTHER, None, 0.5, SCALE, packed[1], OTHER)
        return TBT.attention(*operands, "ternary", encoding, False, "ternary012", encoding, False)

    for encoding in ("ternary", "int8"):
        copied = attend(keys.repeat_interleave(3, 1), values.repeat_interleave(3, 1), encoding)
        assert torch.equal(attend(keys, values, encoding), copied)
