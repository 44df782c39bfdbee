"""Bit-plane layouts: what a word holds, and that every conversion can be undone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_tools import SEEDS, codes

from tbt_compile.codegen.layouts import (
    by_octets,
    by_quarters,
    deinterleave,
    interleave,
    interleaved_shape,
    pack_planes,
    pair,
    quarter_group,
    unpack_planes,
    unpair,
    words_for,
)
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError

PACKED = (Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01, Encoding.TERNARY012)


@pytest.mark.parametrize("encoding", PACKED)
@given(seed=SEEDS, length=st.integers(1, 200))
def test_unpacking_gives_the_codes_back(encoding: Encoding, seed: int, length: int) -> None:
    values = codes(seed, encoding, 2, 3, length)
    planes = pack_planes(values, encoding)
    assert planes.shape == (2, 3, encoding.planes, words_for(length))
    np.testing.assert_array_equal(unpack_planes(planes, length, encoding), values)


def test_bits_are_where_the_format_says() -> None:
    values = np.zeros(70, np.int64)
    values[[0, 3, 69]] = (-1, 1, -1)
    nonzero, sign = pack_planes(values, Encoding.TERNARY)
    assert nonzero.tolist() == [0b1001, 1 << 5]
    assert sign.tolist() == [1, 1 << 5]
    assert pack_planes(np.where(values < 0, -1, 1), Encoding.BINARY)[0].tolist() == [1, 1 << 5]
    assert pack_planes(np.array([0, 1, 2, 2]), Encoding.TERNARY012).tolist() == [[0b0010], [0b1100]]
    assert pack_planes(np.array([1, 0, 1]), Encoding.BINARY01).tolist() == [[0b101]]


@pytest.mark.parametrize("encoding", (Encoding.BINARY, Encoding.TERNARY))
@pytest.mark.parametrize("features", ({"neon"}, {"avx2"}, {"avx2", "avx512bw"}), ids=("128", "256", "512"))
@given(seed=SEEDS, rows=st.integers(1, 70), length=st.integers(1, 150))
def test_interleaving_can_be_undone(
    encoding: Encoding, features: set[str], seed: int, rows: int, length: int
) -> None:
    isa = Isa.from_features("any", features)
    planes = pack_planes(codes(seed, encoding, rows, length), encoding)
    weights = interleave(planes, isa)
    assert weights.shape == interleaved_shape(rows, length, encoding, isa)
    assert weights[rows // isa.block :, :, :, rows % isa.block :][-1:].sum() == 0 or rows % isa.block == 0
    np.testing.assert_array_equal(deinterleave(weights, rows), planes)


@given(seed=SEEDS, length=st.integers(1, 150))
def test_pairs_hold_the_codes_side_by_side_and_can_be_undone(seed: int, length: int) -> None:
    values = codes(seed, Encoding.TERNARY, 3, length)
    planes = pack_planes(values, Encoding.TERNARY)
    paired = pair(planes)
    np.testing.assert_array_equal(unpair(paired), planes)
    k = length - 1
    words = paired[:, k % 2, k // 64]
    np.testing.assert_array_equal(words >> np.uint64(k % 64 - k % 2) & np.uint64(3), 1 - values[:, k])


@given(
    seed=SEEDS,
    encoding=st.sampled_from((Encoding.BINARY, Encoding.TERNARY)),
    rows=st.integers(1, 150),
    length=st.integers(1, 150),
)
def test_quarters_hold_the_same_elements_of_neighbouring_columns(
    seed: int, encoding: Encoding, rows: int, length: int
) -> None:
    isa = Isa.from_features("any", {"neon"})
    planes = pack_planes(codes(seed, encoding, rows, length), encoding)
    weights = by_quarters(interleave(planes, isa))
    column, k = rows - 1, length - 1
    blocks, words, count, _ = weights.shape
    first = column // 8 // quarter_group(count) * quarter_group(count)
    group = weights[first : first + quarter_group(count)]
    group = group.view("<u2").reshape(words, 4, min(quarter_group(count), blocks - first), count, 8)
    quarter = group[k // 64, k % 64 // 16, column // 8 - first, :, column % 8]
    np.testing.assert_array_equal(
        quarter >> k % 16 & 1, planes[column, :, k // 64] >> np.uint64(k % 64) & np.uint64(1)
    )


@given(
    seed=SEEDS,
    encoding=st.sampled_from((Encoding.BINARY, Encoding.TERNARY)),
    rows=st.integers(1, 150),
    length=st.integers(1, 150),
)
def test_octets_hold_the_same_elements_of_the_columns_of_a_block(
    seed: int, encoding: Encoding, rows: int, length: int
) -> None:
    isa = Isa.from_features("any", {"avx2"})
    planes = pack_planes(codes(seed, encoding, rows, length), encoding)
    weights = by_octets(interleave(planes, isa))
    column, k = rows - 1, length - 1
    blocks, words, count, block = weights.shape
    octets = weights.view(np.uint8).reshape(blocks, words, 8, block, count)
    stored = octets[column // block, k // 64, k % 64 // 8, column % block] >> k % 8 & 1
    bits = planes[column, :, k // 64] >> np.uint64(k % 64) & np.uint64(1)
    if encoding is Encoding.TERNARY:  # as positive and negative
        bits[0] &= ~bits[1]
    np.testing.assert_array_equal(stored, bits)


def test_codes_outside_the_encoding_are_refused() -> None:
    with pytest.raises(LoweringError, match="codes outside BINARY"):
        pack_planes(np.array([0, 1]), Encoding.BINARY)
    with pytest.raises(LoweringError, match="INT8 codes have no bit-planes"):
        pack_planes(np.array([5]), Encoding.INT8)
    with pytest.raises(LoweringError, match="cannot hold 65 BINARY codes"):
        unpack_planes(np.zeros((3, 1, 1), np.uint64), 65, Encoding.BINARY)
    with pytest.raises(LoweringError, match="cannot hold 5 INT8 codes"):
        unpack_planes(np.zeros((3, 0, 1), np.uint64), 5, Encoding.INT8)


def test_the_vector_width_follows_the_cpu_features() -> None:
    assert Isa.from_features("a", {"avx2"}).block == 32
    assert Isa.from_features("b", {"neon"}).block == 8
    wide = Isa.from_features("c", {"avx2", "avx512bw", "avx512vpopcntdq", "avx512vnni"})
    assert (wide.block, wide.has_popcount, wide.dot) == (32, True, "vnni")
