"""Packed keys and values: tokens appended one by one equal all of them packed at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operator_tools import BRIEF, FEW, LEARNED, LENGTHS, OTHER, SIGNED, TBT, check_export, check_fake, heads

from tbt_compile.encoding import Encoding
from tbt_compile.ops.quantize import quantize

# Batch, heads and whether those come last; tokens and features; the encoding.
SHAPES = (FEW, FEW, st.booleans(), LENGTHS, LENGTHS)


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


@BRIEF
@given(*SHAPES, st.sampled_from(SIGNED))
def test_fakes_of_packing(
    batch: int, count: int, heads_last: bool, tokens: int, width: int, encoding: Encoding
) -> None:
    x = heads(batch, count, tokens, width, heads_last)
    check_fake(TBT.pack_keys, x, OTHER, encoding.value, False, heads_last)
    check_fake(TBT.pack_values, x, OTHER, encoding.value, False, heads_last)


@BRIEF
@given(*SHAPES, st.sampled_from(SIGNED), FEW)
def test_fakes_of_appending(
    batch: int, count: int, heads_last: bool, tokens: int, width: int, encoding: Encoding, new: int
) -> None:
    old, x = heads(batch, count, tokens, width, False), heads(batch, count, new, width, heads_last)
    keys = TBT.pack_keys(old, OTHER, encoding.value, False)
    check_fake(TBT.append_keys, keys, x, OTHER, encoding.value, False, heads_last)
    if not encoding.dynamic:
        values = TBT.pack_values(old, OTHER, encoding.value, False)
        check_fake(TBT.append_values, values, keys, x, OTHER, encoding.value, False, heads_last)


@BRIEF
@given(*SHAPES, st.sampled_from(LEARNED), st.booleans())
def test_heads_last_is_the_same_cache(
    batch: int, count: int, center: bool, tokens: int, width: int, encoding: Encoding, eight: bool
) -> None:
    first, new = (heads(batch, count, length, width, False) for length in (tokens, 2))
    name = "int8" if eight else encoding.value
    first_last, new_last = first.transpose(1, 2).contiguous(), new.transpose(1, 2).contiguous()
    keys, values = (pack(first, OTHER, name, center) for pack in (TBT.pack_keys, TBT.pack_values))
    assert torch.equal(TBT.pack_keys(first_last, OTHER, name, center, True), keys)
    assert torch.equal(TBT.pack_values(first_last, OTHER, name, center, True), values)
    grown = TBT.append_keys(keys, new, OTHER, name, center)
    assert torch.equal(TBT.append_keys(keys, new_last, OTHER, name, center, True), grown)
    if not eight:
        grown = TBT.append_values(values, keys, new, OTHER, name, center)
        assert torch.equal(TBT.append_values(values, keys, new_last, OTHER, name, center, True), grown)
