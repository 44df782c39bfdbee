"""The popcount formulas on NumPy words against integer codes; no kernel is compiled."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_tools import SEEDS, codes

from tbt_compile.codegen.kernels.dot.bit_product import BitProduct, bit_product, plane_count
from tbt_compile.codegen.kernels.dot.carry_save import carry_save_add
from tbt_compile.codegen.layouts import pack_planes, unpack_planes, words_for
from tbt_compile.encoding import Encoding

PACKED = tuple(encoding for encoding in Encoding if encoding.planes)
BYTES = (Encoding.INT8, Encoding.UINT8)
PAIRS = [*product((*PACKED, *BYTES), PACKED)]
LENGTHS = st.integers(1, 300)

Words = np.ndarray


def planes_of(values: np.ndarray, encoding: Encoding) -> Words:
    """Codes [K] as the uint64 planes [P, W] of a kernel's operand: eight for 8-bit codes."""
    if encoding.planes:
        return pack_planes(values, encoding)
    bits = values.astype(np.int64) & 0xFF
    one_plane = [pack_planes(bits >> place & 1, Encoding.BINARY01)[0] for place in range(8)]
    return np.stack(one_plane)


def popcount(words: Words) -> int:
    return int(np.bitwise_count(words).sum())


def evaluate(formula: BitProduct, x: Words, w: Words, length: int) -> int:
    """The formula of `BitProduct`, word for word."""
    terms = sum(term.coefficient * popcount(term.bits(x, w)) for term in formula.terms)
    columns = sum(term.coefficient * popcount(term.bits((), w)) for term in formula.columns)
    row = sum(weight * popcount(plane) for weight, plane in zip(formula.row, x, strict=False))
    return formula.per_element * length + row + columns + terms


@pytest.mark.parametrize(("x", "w"), PAIRS, ids=lambda encoding: encoding.value)
@given(seed=SEEDS, length=LENGTHS)
def test_every_formula_is_the_dot_product_of_the_codes(
    x: Encoding, w: Encoding, seed: int, length: int
) -> None:
    x_codes, w_codes = codes(seed, x, length), codes(seed + 1, w, length)
    x_planes, w_planes = planes_of(x_codes, x), planes_of(w_codes, w)
    assert x_planes.shape == (plane_count(x), words_for(length))
    found = evaluate(bit_product(x, w), x_planes, w_planes, length)
    assert found == int(x_codes.astype(np.int64) @ w_codes.astype(np.int64))


@pytest.mark.parametrize(("x", "w"), PAIRS, ids=lambda encoding: encoding.value)
@pytest.mark.parametrize("length", (1, 63, 64, 65, 200))
def test_the_largest_and_smallest_codes(x: Encoding, w: Encoding, length: int) -> None:
    for a, b in product((x.minimum, x.maximum), (w.minimum, w.maximum)):
        planes = planes_of(np.full(length, a), x), planes_of(np.full(length, b), w)
        assert evaluate(bit_product(x, w), *planes, length) == a * b * length


@pytest.mark.parametrize(("x", "w"), PAIRS, ids=lambda encoding: encoding.value)
def test_terms_and_columns_need_no_more_planes_than_there_are(x: Encoding, w: Encoding) -> None:
    """Padding bits never count: words of zeros give zero in every term."""
    formula = bit_product(x, w)
    zeros = np.zeros((plane_count(x), 3), np.uint64), np.zeros((w.planes, 3), np.uint64)
    assert all(popcount(term.bits(*zeros)) == 0 for term in formula.terms)
    assert all(popcount(term.bits((), zeros[1])) == 0 for term in formula.columns)
    assert len(formula.row) in (0, plane_count(x))
    assert set(formula.coefficients) == {term.coefficient for term in formula.terms}


@given(seed=SEEDS, length=LENGTHS)
def test_the_carry_save_identity(seed: int, length: int) -> None:
    """sum(v + 1) = 2 popcount(carries) + popcount(kept at the end), over all positions of the words."""
    x_codes, w_codes = (codes(seed + place, Encoding.TERNARY, length) for place in range(2))
    x, w = (pack_planes(values, Encoding.TERNARY) for values in (x_codes, w_codes))
    kept, carries = np.uint64(0), 0
    for word in range(words_for(length)):
        carry, kept = carry_save_add(kept, ~x[:, word], w[:, word], let=lambda value: value)
        carries += popcount(carry)
    positions = 64 * words_for(length)
    assert 2 * carries + popcount(kept) - positions == int(x_codes @ w_codes)


@given(seed=SEEDS, length=LENGTHS)
def test_bytes_are_the_weighted_sum_of_their_planes(seed: int, length: int) -> None:
    for encoding in BYTES:
        values = codes(seed, encoding, length)
        planes = planes_of(values, encoding)
        bits = [unpack_planes(plane[None], length, Encoding.BINARY01).astype(np.int64) for plane in planes]
        weights = bit_product(encoding, Encoding.BINARY).row
        assert (sum(weight * bit for weight, bit in zip(weights, bits, strict=True)) == values).all()
