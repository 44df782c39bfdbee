"""What every encoding is: bits, codes, planes, and which one a recipe's bits stand for."""

from __future__ import annotations

import pytest

from tbt_compile.encoding import LEAST_PEAK, Encoding
from tbt_compile.errors import RecipeError

# Bits, the smallest and the largest code, planes.
TABLE = {
    Encoding.BINARY: (1, -1, 1, 1),
    Encoding.TERNARY: (2, -1, 1, 2),
    Encoding.BINARY01: (1, 0, 1, 1),
    Encoding.TERNARY012: (2, 0, 2, 2),
    Encoding.INT8: (8, -127, 127, 0),
    Encoding.UINT8: (8, 0, 255, 0),
}
FLOATS = {Encoding.FLOAT: 32, Encoding.BFLOAT16: 16, Encoding.FLOAT16: 16}


@pytest.mark.parametrize("encoding", TABLE, ids=lambda encoding: encoding.value)
def test_codes(encoding: Encoding) -> None:
    bits, minimum, maximum, planes = TABLE[encoding]
    assert (encoding.bits, encoding.minimum, encoding.maximum, encoding.planes) == TABLE[encoding]
    assert encoding.levels == tuple(
        code for code in range(minimum, maximum + 1) if code or bits != 1 or not minimum
    )
    assert encoding.signed == (minimum < 0)
    assert encoding.dynamic == (bits == 8)
    assert encoding.quantized and not encoding.half
    assert 2**planes >= len(encoding.levels) or not planes


@pytest.mark.parametrize("encoding", FLOATS, ids=lambda encoding: encoding.value)
def test_floats_have_no_codes(encoding: Encoding) -> None:
    assert encoding.bits == FLOATS[encoding]
    assert encoding.half == (encoding.bits == 16)
    assert (encoding.levels, encoding.minimum, encoding.maximum, encoding.planes) == ((), 0, -1, 0)
    assert encoding.signed and not encoding.quantized and not encoding.dynamic


def test_there_are_no_others() -> None:
    assert {*TABLE, *FLOATS} == set(Encoding)


@pytest.mark.parametrize(
    ("bits", "signed", "unsigned"),
    [
        (1, Encoding.BINARY, Encoding.BINARY01),
        (2, Encoding.TERNARY, Encoding.TERNARY012),
        (8, Encoding.INT8, Encoding.UINT8),
        (32, Encoding.FLOAT, Encoding.FLOAT),
    ],
)
def test_the_bits_of_a_recipe(bits: int, signed: Encoding, unsigned: Encoding) -> None:
    assert Encoding.for_weight(bits) is signed
    assert Encoding.for_activation(bits, signed=True) is signed
    assert Encoding.for_activation(bits, signed=False) is unsigned


@pytest.mark.parametrize("bits", [0, 3, 16])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(RecipeError, match=f"{bits} bits is not supported"):
        Encoding.for_weight(bits)
    with pytest.raises(RecipeError, match=f"{bits} bits is not supported"):
        Encoding.for_activation(bits, signed=True)


def test_the_least_peak_is_a_number_that_every_engine_has() -> None:
    assert LEAST_PEAK == 2.0**-100
