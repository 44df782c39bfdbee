"""Operators of frozen models: packed words bit by bit, and what `torch.export` is told about them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operator_tools import BRIEF, FEW, LENGTHS, SIGNED, TBT, check_fake, weight_of
from torch import Tensor

from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError
from tbt_compile.ops.quantize import pack, pack_bits, unpack, unpack_bits
from tbt_compile.quantizers import ActivationQuantizer

BIT_ENCODINGS = [Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01, Encoding.TERNARY012]
ACTIVATIONS = [*BIT_ENCODINGS, Encoding.INT8, Encoding.UINT8]
# What each plane says of a code, in the words of the format.
PLANES = {
    Encoding.BINARY: [lambda code: code == -1],
    Encoding.TERNARY: [lambda code: code != 0, lambda code: code == -1],
    Encoding.BINARY01: [lambda code: code == 1],
    Encoding.TERNARY012: [lambda code: code % 2 == 1, lambda code: code // 2 == 1],
}
ROWS = (1, 7, 50)
COLUMNS = (1, 63, 64, 65, 100, 128)


def random_codes(encoding: Encoding, *shape: int, seed: int = 0) -> Tensor:
    levels = torch.tensor(encoding.levels)
    generator = torch.Generator().manual_seed(seed)
    return levels[torch.randint(len(levels), shape, generator=generator)].float()


def packed_by_hand(codes: list[int], encoding: Encoding) -> list[list[int]]:
    """One row of codes as planes of words, each a Python integer of 64 bits as int64 holds it."""
    planes = []
    for says in PLANES[encoding]:
        words = [0] * -(-len(codes) // 64)
        for position, code in enumerate(codes):
            words[position // 64] |= int(says(code)) << position % 64
        planes.append([word - 2**64 if word >= 2**63 else word for word in words])
    return planes


@st.composite
def rows_of_codes(draw: st.DrawFn) -> tuple[Encoding, list[list[int]]]:
    encoding = draw(st.sampled_from(BIT_ENCODINGS))
    length = draw(st.sampled_from(COLUMNS) | st.integers(1, 200))
    row = st.lists(st.sampled_from(encoding.levels), min_size=length, max_size=length)
    return encoding, draw(st.lists(row, min_size=1, max_size=4))


@given(rows_of_codes())
def test_packing_equals_the_definition(case: tuple[Encoding, list[list[int]]]) -> None:
    encoding, rows = case
    codes = torch.tensor(rows)
    packed = pack(codes, encoding)
    assert packed.dtype == torch.int64
    assert packed.tolist() == [packed_by_hand(row, encoding) for row in rows]
    unpacked = unpack(packed, encoding.value, codes.shape[1])
    assert unpacked.dtype == torch.float32
    assert torch.equal(unpacked, codes.float())


@pytest.mark.parametrize("encoding", BIT_ENCODINGS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_tails_are_zero_bits(encoding: Encoding, columns: int) -> None:
    for rows in ROWS:
        codes = random_codes(encoding, rows, columns)
        packed = pack(codes, encoding)
        assert packed.shape == (rows, encoding.planes, -(-columns // 64))
        assert torch.equal(unpack(packed, encoding.value, columns), codes)
        bits = unpack_bits(packed[:, :1], Encoding.BINARY01, 64 * packed.shape[2])
        assert not bits[:, columns:].any()


def test_any_leading_dimensions() -> None:
    codes = random_codes(Encoding.TERNARY, 2, 3, 4, 70)
    packed = pack_bits(codes, Encoding.TERNARY)
    assert packed.shape == (2, 3, 4, 2, 2)
    assert torch.equal(unpack_bits(packed, Encoding.TERNARY, 70), codes)
    turned = pack_bits(codes.transpose(-1, -2), Encoding.TERNARY)  # not contiguous
    assert torch.equal(unpack_bits(turned, Encoding.TERNARY, 4), codes.transpose(-1, -2))
    assert pack_bits(codes[:0], Encoding.TERNARY).shape == (0, 3, 4, 2, 2)


def test_eight_bits_stay_bytes() -> None:
    codes = random_codes(Encoding.INT8, 7, 65)
    packed = pack(codes, Encoding.INT8)
    assert packed.dtype == torch.int8
    assert torch.equal(unpack(packed, "int8", 65), codes)


def test_codes_outside_the_encoding_are_refused() -> None:
    with pytest.raises(LoweringError, match="codes outside TERNARY"):
        pack(torch.tensor([[0.0, 2.0]]), Encoding.TERNARY)


@pytest.mark.parametrize("encoding", ACTIVATIONS)
@pytest.mark.parametrize("center", [False, True])
def test_quantize_equals_the_quantizer_of_training(encoding: Encoding, center: bool) -> None:
    quantizer = ActivationQuantizer(encoding, center=center)
    x = torch.randn(3, 5, 65)
    if not encoding.dynamic:
        quantizer.set_scale(0.7)
    expected = quantizer(x)
    scale = torch.tensor(0.7)
    codes, found = torch.ops.tbt.quantize(x, scale, encoding.value, quantizer.center)
    assert torch.equal(codes, expected.codes)
    assert torch.equal(found, expected.scale)
    assert set(codes.unique().tolist()) <= set(map(float, encoding.levels))
    assert found.data_ptr() != scale.data_ptr()


def test_a_row_of_zeros_has_codes_and_a_scale_of_zero() -> None:
    codes, scale = torch.ops.tbt.quantize(torch.zeros(2, 8), torch.ones(()), "int8", False)
    assert torch.equal(codes, torch.zeros(2, 8))
    assert torch.equal(scale, torch.zeros(2, 1))


@pytest.mark.parametrize("encoding", ACTIVATIONS)
def test_export_knows_the_shapes_of_quantize(encoding: Encoding) -> None:
    arguments = (torch.randn(3, 5, 65), torch.tensor(0.7), encoding.value, False)
    torch.library.opcheck(
        torch.ops.tbt.quantize.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.TERNARY, Encoding.INT8])
def test_export_knows_the_shapes_of_unpack(encoding: Encoding) -> None:
    arguments = (pack(random_codes(encoding, 7, 65), encoding), encoding.value, 65)
    torch.library.opcheck(
        torch.ops.tbt.unpack.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


@BRIEF
@given(st.lists(FEW, max_size=3), LENGTHS, st.sampled_from(ACTIVATIONS), st.booleans())
def test_fake_of_quantize(lead: list[int], width: int, encoding: Encoding, center: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        x, scale = torch.randn(*lead, width, dtype=dtype), torch.tensor(0.7, dtype=dtype)
        check_fake(TBT.quantize, x, scale, encoding.value, center)


@BRIEF
@given(FEW, LENGTHS, st.sampled_from(SIGNED))
def test_fake_of_unpack(rows: int, columns: int, encoding: Encoding) -> None:
    packed, _ = weight_of(encoding, rows, columns)
    check_fake(TBT.unpack, packed, encoding.value, columns)
