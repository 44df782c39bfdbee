"""Rows of the dispatch tables of `kernels/strategy.py`: which kernels multiply what, and where a row fits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

from tbt_compile.codegen.kernels.dot.bit_product import bit_product
from tbt_compile.codegen.kernels.dot.lut_tables import ProductTable
from tbt_compile.codegen.layouts import Layout, words_for
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.target.tiles import Tile, tile
from tbt_compile.encoding import Encoding

GEMM_FROM = 8
"""The number of rows from which unpacking a block of weights, or filling a LUT, pays off."""
UNPACK_FROM = 32
"""The same where byte dot products can also multiply packed weights."""
MATRIX_TILE = Tile(8, 4)
"""The register tile of the matrix kernels, unless another was measured."""


class Kernel(Enum):
    """A kernel that multiplies rows by columns of codes; the comment names its file."""

    POPCOUNT = "popcount"  # linear/popcount_gemm.py, attention/popcount.py, dot/register_tile.py
    CARRY_SAVE = "carry-save popcount"  # the same, with dot/carry_save.py
    LUT_GEMM = "LUT GEMM"  # linear/lut_gemm.py
    LUT_SUMS = "LUT sums"  # linear/lut_sums.py
    SHUFFLE_SUMS = "shuffle sums"  # linear/shuffle_sums.py
    SMALL_SUMS = "small sums"  # linear/small_sums.py
    PACKED_DOT = "packed dot"  # linear/packed_dot.py
    UNPACKED_DOT = "unpacked dot"  # linear/unpacked_dot.py
    MATRIX_DOT = "matrix dot"  # linear/matrix_dot.py
    INT8_GEMV = "int8 GEMV"  # linear/int8.py, attention/int8.py
    INT8_GEMM = "int8 GEMM"  # the same
    INT8_MATRIX = "int8 matrix"  # linear/int8.py
    FLOAT_SUMS = "float sums"  # attention/int8.py


@dataclass(frozen=True)
class Strategy:
    """A row of a dispatch table.

    Attributes:
        x: encodings of the rows: activations, queries or probabilities.
        w: encodings of the columns: weights, keys or values.
        gemv: the kernel for few rows.
        gemm: the kernel for many rows.
        why: the reason, printed by `tbt targets`.
        needs: the CPU must have one of these features; empty if any CPU will do.
        without: features with any of which a later row is better.
        gemm_from: the number of rows from which `gemm` is used; 1 if both kernels are the same.
        layout: layout of a linear layer's weights, shared by both kernels.
        narrow_sums: whether sums have 16 bits, which limits K.
        tile_key: of the register tile of `gemm`, if a tile of one row, a later row's, may be measured to be
            faster.
    """

    x: tuple[Encoding, ...]
    w: tuple[Encoding, ...]
    gemv: Kernel
    gemm: Kernel
    why: str
    needs: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    gemm_from: int = 1
    layout: Layout = Layout.PLANES
    narrow_sums: bool = False
    tile_key: str = ""

    def fits(self, x: Encoding, w: Encoding, isa: Isa, k: int) -> bool:
        """Whether this row of the table applies.

        Args:
            x: encoding of the rows.
            w: encoding of the columns.
            isa: the CPU's features.
            k: length of the dot products.

        Returns:
            True if encodings, features and length all fit.
        """
        return (
            x in self.x
            and w in self.w
            and (not self.needs or any(isa.has(feature) for feature in self.needs))
            and not any(isa.has(feature) for feature in self.without)
            and not (self.narrow_sums and not _lut_fits(x, w, k))
            and not (self.tile_key and tile(isa, self.tile_key, MATRIX_TILE).rows == 1)
        )

    def kernel(self, rows: int) -> Kernel:
        """The kernel for a number of rows."""
        return self.gemm if rows >= self.gemm_from else self.gemv


def matrix_key(weight: Encoding) -> str:
    """The key of the matrix kernels of a weight encoding in tile files; see `Strategy.tile_key`."""
    return f"matrix {weight.value}"


@cache
def _lut_fits(x: Encoding, w: Encoding, k: int) -> bool:
    """Whether an index of the LUT fits 8 bits and a sum of `k` products fits 16 bits."""
    tables = ProductTable(bit_product(x, w))
    largest = tables.max_entry * words_for(k) * WORD_BITS // tables.group
    return tables.index_bits <= 8 and largest < 1 << 16
