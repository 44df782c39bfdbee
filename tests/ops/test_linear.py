"""Linear layers and embeddings on packed weights: equal, bit for bit, to what training computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from operator_tools import (
    BRIEF,
    FEW,
    LENGTHS,
    SCALE,
    SIGNED,
    TBT,
    UNSIGNED,
    check_export,
    check_fake,
    weight_of,
)

from tbt_compile.encoding import Encoding
from tbt_compile.ops.linear import FUNCTIONS
from tbt_compile.ops.quantize import quantize, unpack
from tbt_compile.quantizers import QuantTensor, quantized_embedding, quantized_linear


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


@BRIEF
@given(
    st.lists(FEW, min_size=1, max_size=3),
    FEW,
    LENGTHS,
    st.sampled_from([*SIGNED, *UNSIGNED]),
    st.sampled_from(SIGNED),
    st.booleans(),
    st.sampled_from(["", *FUNCTIONS]),
)
def test_fake_of_bit_linear(
    lead: list[int],
    rows: int,
    columns: int,
    x_encoding: Encoding,
    weight_encoding: Encoding,
    biased: bool,
    function: str,
) -> None:
    packed, scale = weight_of(weight_encoding, rows, columns)
    bias = torch.randn(rows) if biased else None
    options = (x_encoding.value, weight_encoding.value, False, columns, function)
    check_fake(TBT.bit_linear, torch.randn(*lead, columns), SCALE, packed, scale, bias, *options)


@BRIEF
@given(st.lists(FEW, max_size=3), FEW, LENGTHS, st.sampled_from(SIGNED))
def test_fake_of_bit_embedding(lead: list[int], rows: int, columns: int, encoding: Encoding) -> None:
    packed, scale = weight_of(encoding, rows, columns)
    check_fake(TBT.bit_embedding, torch.randint(rows, lead), packed, scale, encoding.value, columns)
