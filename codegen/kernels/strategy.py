"""Kernel dispatch: tables of strategies, searched from the top; the first row that fits is used.

A row names the encodings it applies to, the CPU features it needs, the kernel for few rows of activations
(GEMV) and for many (GEMM), the number of rows from which GEMM is used, the layout of the weights, and the
reason. `tbt targets` prints the rows chosen on each CPU.

To add a kernel:

    1. add it to `Kernel`, and write it in `linear/`, as a class with the members of
       `linear.linear.ChunkProduct`, or in `dot/` if attention shares it
    2. add the class to `linear.linear.IMPLEMENTATIONS`
    3. add a row above the rows that it replaces; a feature that no kernel used before moves to `used` in
       `target/isa.py`
    4. run tests/codegen/kernels, which multiply every pair of encodings on every CPU that can run here

A kernel that is faster on some CPUs with a feature and slower on others has a `tile_key`: `tbt tune` measures
it. SVE with more than 128 bits would start as a `VectorSet`. The popcount formula of each pair of encodings,
such as {0, 1, 2} times ternary, is in `dot/bit_product.py`.
"""

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
from tbt_compile.errors import LoweringError

BITS = (Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01, Encoding.TERNARY012)
"""Codes of 1 and 2 bits, stored as bit-planes."""
BYTES = (Encoding.INT8, Encoding.UINT8)
"""Codes of 8 bits, with a dynamic scale per row."""
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
        without: a feature with which a later row is better.
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
    without: str = ""
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
            and not (self.without and isa.has(self.without))
            and not (self.narrow_sums and not _lut_fits(x, w, k))
            and not (self.tile_key and tile(isa, self.tile_key, MATRIX_TILE).rows == 1)
        )

    def kernel(self, rows: int) -> Kernel:
        """The kernel for a number of rows."""
        return self.gemm if rows >= self.gemm_from else self.gemv


def matrix_key(weight: Encoding) -> str:
    """The key of the matrix kernels of a weight encoding in tile files; see `Strategy.tile_key`."""
    return f"matrix {weight.value}"


_DOT = ("vnni", "avxvnni", "dotprod")

CARRY_SAVE = Strategy(
    x=(Encoding.TERNARY,),
    w=(Encoding.TERNARY,),
    needs=("neon",),
    gemv=Kernel.CARRY_SAVE,
    gemm=Kernel.CARRY_SAVE,
    why="one popcount per word instead of two: the carry-save adder is cheaper than the second popcount",
)
POPCOUNT = Strategy(
    x=BITS,
    w=BITS,
    gemv=Kernel.POPCOUNT,
    gemm=Kernel.POPCOUNT,
    why="AND or XOR of bit-planes and a popcount: 64 products in a few instructions",
)

LINEAR = (
    Strategy(
        x=BYTES,
        w=(Encoding.INT8,),
        needs=("i8mm",),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_MATRIX,
        gemm_from=GEMM_FROM,
        tile_key=matrix_key(Encoding.INT8),
        why="SMMLA multiplies two rows by two columns; many rows share one reordering for it",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.INT8,),
        needs=_DOT,
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMM,
        gemm_from=GEMM_FROM,
        why="weights stay in the order that embeddings read; many rows share one reordering for byte dots",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.INT8,),
        needs=("avx2",),
        without="avx512bw",
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMM,
        gemm_from=UNPACK_FROM,
        why="as above; VPMADDUBSW gains less from reordered weights",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.INT8,),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMM,
        gemm_from=GEMM_FROM,
        why="as above, by widening multiplications",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.BINARY,),
        needs=("i8mm",),
        gemv=Kernel.PACKED_DOT,
        gemm=Kernel.MATRIX_DOT,
        gemm_from=2,
        tile_key=matrix_key(Encoding.BINARY),
        why="SMMLA multiplies two rows by two columns, twice the products of SDOT; one row uses SDOT",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.TERNARY,),
        needs=("i8mm",),
        gemv=Kernel.PACKED_DOT,
        gemm=Kernel.MATRIX_DOT,
        gemm_from=2,
        layout=Layout.PAIRS,
        tile_key=matrix_key(Encoding.TERNARY),
        why="as for binary weights, in the layout of one row's kernel",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.BINARY,),
        needs=_DOT,
        gemv=Kernel.PACKED_DOT,
        gemm=Kernel.UNPACKED_DOT,
        gemm_from=UNPACK_FROM,
        why="byte dot products accumulate in 32 bits; few rows mask codes in place, many share one unpacking",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.TERNARY,),
        needs=_DOT,
        gemv=Kernel.PACKED_DOT,
        gemm=Kernel.UNPACKED_DOT,
        gemm_from=UNPACK_FROM,
        layout=Layout.PAIRS,
        why="as for binary weights; the two bits of a code are adjacent, so one mask extracts it",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.BINARY, Encoding.TERNARY),
        needs=("neon",),
        gemv=Kernel.LUT_SUMS,
        gemm=Kernel.LUT_SUMS,
        layout=Layout.QUARTERS,
        why="no byte dot product: one TBL looks up 16 byte sums of four activations each",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.BINARY, Encoding.TERNARY),
        needs=("avx2",),
        gemv=Kernel.SHUFFLE_SUMS,
        gemm=Kernel.SHUFFLE_SUMS,
        layout=Layout.OCTETS,
        why="no byte dot product: one VPSHUFB looks up 32 byte sums of four activations each",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.BINARY, Encoding.TERNARY),
        gemv=Kernel.POPCOUNT,
        gemm=Kernel.UNPACKED_DOT,
        gemm_from=GEMM_FROM,
        why="no byte dot product into 32 bits: few rows popcount their bit-planes, many unpack the weights",
    ),
    Strategy(
        x=BITS,
        w=(Encoding.BINARY,),
        needs=("avx2",),
        without="vpopcntdq",
        gemv=Kernel.POPCOUNT,
        gemm=Kernel.LUT_GEMM,
        gemm_from=GEMM_FROM,
        narrow_sums=True,
        why="no vector popcount: one byte shuffle looks up products that take nine instructions otherwise",
    ),
    Strategy(
        x=BITS,
        w=(Encoding.TERNARY,),
        needs=("avx2",),
        without="vpopcntdq",
        gemv=Kernel.SMALL_SUMS,
        gemm=Kernel.LUT_GEMM,
        gemm_from=GEMM_FROM,
        layout=Layout.OCTETS,
        narrow_sums=True,
        why="no vector popcount: few rows look up sums of four activations, many look up products",
    ),
    Strategy(
        x=BITS,
        w=(Encoding.TERNARY,),
        needs=("avx2",),
        without="vpopcntdq",
        gemv=Kernel.SMALL_SUMS,
        gemm=Kernel.SMALL_SUMS,
        layout=Layout.OCTETS,
        why="as above, where the sums of the products do not fit 16 bits",
    ),
    CARRY_SAVE,
    POPCOUNT,
)
"""Strategies of linear layers. Weights are BINARY, TERNARY or INT8."""

SCORES = (
    Strategy(
        x=BYTES,
        w=(Encoding.INT8,),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMM,
        gemm_from=GEMM_FROM,
        why="as in linear layers: many queries share one reordering of the keys for byte dots",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.UINT8,),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMV,
        why="byte dots require a signed operand on the side of the keys",
    ),
    CARRY_SAVE,
    POPCOUNT,
)
"""Strategies of attention scores, Q.K^T."""

OUTPUTS = (
    Strategy(
        x=BYTES,
        w=BYTES,
        gemv=Kernel.FLOAT_SUMS,
        gemm=Kernel.FLOAT_SUMS,
        why="each token of the values has its scale, so sums over tokens are not integer sums",
    ),
    CARRY_SAVE,
    POPCOUNT,
)
"""Strategies of attention outputs, P.V."""


def strategy(
    x: Encoding, w: Encoding, isa: Isa, k: int = WORD_BITS, table: tuple[Strategy, ...] = LINEAR
) -> Strategy:
    """Choose the strategy for a pair of encodings on a CPU.

    Args:
        x: encoding of the rows.
        w: encoding of the columns.
        isa: the CPU's features.
        k: length of the dot products.
        table: `LINEAR`, `SCORES` or `OUTPUTS`.

    Returns:
        The first row of the table that fits.

    Raises:
        LoweringError: no kernel multiplies these encodings.

    >>> from tbt_compile.codegen.target.parse import parse_target
    >>> found = strategy(Encoding.INT8, Encoding.BINARY, parse_target("znver4").isa)
    >>> found.gemv.value, found.gemm.value, found.gemm_from
    ('packed dot', 'unpacked dot', 32)
    """
    for row in table:
        if row.fits(x, w, isa, k):
            return row
    raise LoweringError(f"no kernel multiplies {x.name} with {w.name} codes")


def counts_with_carry_save(x: Encoding, w: Encoding, isa: Isa) -> bool:
    """Whether a product is accumulated by `CarrySaveAccumulator`, which takes the planes of x complemented.

    Args:
        x: encoding of the rows.
        w: encoding of the columns.
        isa: the CPU's features.

    Returns:
        True where the `CARRY_SAVE` strategy fits.
    """
    return CARRY_SAVE.fits(x, w, isa, WORD_BITS)


@cache
def _lut_fits(x: Encoding, w: Encoding, k: int) -> bool:
    """Whether an index of the LUT fits 8 bits and a sum of `k` products fits 16 bits."""
    tables = ProductTable(bit_product(x, w))
    largest = tables.max_entry * words_for(k) * WORD_BITS // tables.group
    return tables.index_bits <= 8 and largest < 1 << 16
