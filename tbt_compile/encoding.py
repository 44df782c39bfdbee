"""Encodings: the sets of integer codes that weights and activations are quantized to.

An `Encoding` says which values a code takes and how codes are stored. Quantizers, graph passes, the file
format and kernels all share it. It needs neither torch nor TVM.
"""

from __future__ import annotations

from enum import Enum

from tbt_compile.errors import RecipeError

SUPPORTED_BITS = (1, 2, 8, 32)

LEAST_PEAK = 2.0**-100
"""Rows with no element above this quantize to all zeros at 8 bits: their inverse scale would overflow."""


class Encoding(Enum):
    """A set of integer codes; a code stands for the real value `code * scale`.

    >>> Encoding.for_activation(2, signed=False)
    <Encoding.TERNARY012: 'ternary012'>
    >>> Encoding.TERNARY.levels, Encoding.TERNARY.planes
    ((-1, 0, 1), 2)
    """

    BINARY = "binary"  # {-1, +1}
    TERNARY = "ternary"  # {-1, 0, +1}
    BINARY01 = "binary01"  # {0, 1}
    TERNARY012 = "ternary012"  # {0, 1, 2}
    INT8 = "int8"  # [-127, 127]
    UINT8 = "uint8"  # [0, 255]
    FLOAT = "float"  # not quantized
    BFLOAT16 = "bfloat16"  # weights only: not quantized, stored in 16 bits
    FLOAT16 = "float16"

    @property
    def bits(self) -> int:
        """Bits in the paper's E-W-A notation, where 2 means ternary and 32 means not quantized."""
        return _BITS[self]

    @property
    def minimum(self) -> int:
        """Smallest code."""
        return _RANGE[self][0]

    @property
    def maximum(self) -> int:
        """Largest code."""
        return _RANGE[self][1]

    @property
    def levels(self) -> tuple[int, ...]:
        """Every code, in ascending order."""
        if self is Encoding.BINARY:
            return (-1, 1)
        return tuple(range(self.minimum, self.maximum + 1))

    @property
    def signed(self) -> bool:
        """Whether negative values have codes."""
        return self not in (Encoding.BINARY01, Encoding.TERNARY012, Encoding.UINT8)

    @property
    def dynamic(self) -> bool:
        """Whether activations are scaled per token at run time instead of by a learned scale."""
        return self in (Encoding.INT8, Encoding.UINT8)

    @property
    def quantized(self) -> bool:
        """Whether there are codes at all."""
        return self is not Encoding.FLOAT and not self.half

    @property
    def half(self) -> bool:
        """Whether it stores floats in 16 bits."""
        return self in (Encoding.BFLOAT16, Encoding.FLOAT16)

    @property
    def planes(self) -> int:
        """Number of bit-planes in the packed layout; 0 for encodings stored as bytes or floats."""
        return _PLANES.get(self, 0)

    @classmethod
    def for_activation(cls, bits: int, signed: bool) -> Encoding:
        """Return the encoding of an activation of `bits` bits, signed or not.

        Raises:
            RecipeError: `bits` is not 1, 2, 8 or 32.
        """
        _check_bits(bits)
        signed_set, unsigned_set = _ACTIVATIONS[bits]
        return signed_set if signed else unsigned_set

    @classmethod
    def for_weight(cls, bits: int) -> Encoding:
        """Return the encoding of a weight matrix of `bits` bits.

        Raises:
            RecipeError: `bits` is not 1, 2, 8 or 32.
        """
        _check_bits(bits)
        return _ACTIVATIONS[bits][0]


_BITS = {
    Encoding.BINARY: 1,
    Encoding.BINARY01: 1,
    Encoding.TERNARY: 2,
    Encoding.TERNARY012: 2,
    Encoding.INT8: 8,
    Encoding.UINT8: 8,
    Encoding.FLOAT: 32,
    Encoding.BFLOAT16: 16,
    Encoding.FLOAT16: 16,
}
_RANGE = {
    Encoding.BINARY: (-1, 1),
    Encoding.TERNARY: (-1, 1),
    Encoding.BINARY01: (0, 1),
    Encoding.TERNARY012: (0, 2),
    Encoding.INT8: (-127, 127),
    Encoding.UINT8: (0, 255),
    Encoding.FLOAT: (0, -1),
    Encoding.BFLOAT16: (0, -1),
    Encoding.FLOAT16: (0, -1),
}
_PLANES = {Encoding.BINARY: 1, Encoding.TERNARY: 2, Encoding.BINARY01: 1, Encoding.TERNARY012: 2}
_ACTIVATIONS = {
    1: (Encoding.BINARY, Encoding.BINARY01),
    2: (Encoding.TERNARY, Encoding.TERNARY012),
    8: (Encoding.INT8, Encoding.UINT8),
    32: (Encoding.FLOAT, Encoding.FLOAT),
}


def _check_bits(bits: int) -> None:
    if bits not in SUPPORTED_BITS:
        raise RecipeError(f"{bits} bits is not supported: expected one of 1 (binary), 2 (ternary), 8 or 32")
