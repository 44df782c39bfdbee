"""Which kernel multiplies what: tables that are read from the top; the first row that fits is used.

A row says for which codes it is, which CPU features it needs, the kernel for few rows of activations (GEMV)
and for many (GEMM), from how many rows on the second is used, how the weights lie in memory, and why. `tbt
targets` prints what it comes to on each CPU.

To add a kernel:

    1. name it in `Kernel`, and write it in `linear/`, as a class with the members of
       `linear.linear.ChunkProduct`, or in `dot/` if attention shall share it
    2. enter the class in `linear.linear.IMPLEMENTATIONS`
    3. add a row above those that it shall replace; a feature that no kernel used so far moves to `used` in
       `target/isa.py`
    4. run tests/codegen/kernels, which multiply every pair of encodings on every CPU that can run here

SMMLA (i8mm), for example, would be two rows for `BYTES` above those that need a dot product, with a kernel
like `UNPACKED_DOT` as their `gemm`: that one puts the weights in the order of the instruction when it unpacks
them. SVE with more than 128 bits would begin as a `VectorSet`. What is counted for a pair of codes, such as
{0, 1, 2} times ternary, is in `dot/bit_product.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

from tbt_compile.codegen.kernels.dot.bit_product import bit_product
from tbt_compile.codegen.kernels.dot.lut_tables import ProductTable
from tbt_compile.codegen.layouts import Layout, words_for
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError

BITS = (Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01, Encoding.TERNARY012)
"""Codes of 1 and 2 bits, stored as bit-planes."""
BYTES = (Encoding.INT8, Encoding.UINT8)
"""Codes of 8 bits, each row with a scale that is found at run time."""
GEMM_FROM = 8
"""From this many rows on, a block of weights is worth unpacking, or a table worth filling."""
UNPACK_FROM = 32
"""The same where weights can also be multiplied packed, by dot products of bytes."""


class Kernel(Enum):
    """A way to multiply; the comment names the file."""

    POPCOUNT = "popcount"  # linear/popcount_gemm.py, attention/popcount.py, dot/register_tile.py
    CARRY_SAVE = "carry-save popcount"  # the same, with dot/carry_save.py
    LUT_GEMM = "LUT GEMM"  # linear/lut_gemm.py
    LUT_SUMS = "LUT sums"  # linear/lut_sums.py
    PACKED_DOT = "packed dot"  # linear/packed_dot.py
    UNPACKED_DOT = "unpacked dot"  # linear/unpacked_dot.py
    INT8_GEMV = "int8 GEMV"  # linear/int8.py, attention/int8.py
    INT8_GEMM = "int8 GEMM"  # the same
    FLOAT_SUMS = "float sums"  # attention/int8.py


@dataclass(frozen=True)
class Strategy:
    """A row of a table.

    Attributes:
        x: encodings of the rows: activations, queries or probabilities.
        w: encodings of the columns: weights, keys or values.
        gemv: the kernel for few rows.
        gemm: the kernel for many rows.
        why: the reason, for `tbt targets` and for whoever reads this.
        needs: features of which the CPU has to have one; none if empty.
        without: a feature that makes another row better.
        gemm_from: rows from which on `gemm` is used; 1 where both are one kernel.
        layout: how a linear layer's weights are stored, for both kernels.
        narrow_sums: whether sums are kept in 16 bits, which limits K.
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

    def fits(self, x: Encoding, w: Encoding, isa: Isa, k: int) -> bool:
        """Whether this row of the table is for such operands.

        Args:
            x: encoding of the rows.
            w: encoding of the columns.
            isa: the CPU's features.
            k: length of the dot products.
        """
        return (
            x in self.x
            and w in self.w
            and (not self.needs or any(isa.has(feature) for feature in self.needs))
            and not (self.without and isa.has(self.without))
            and not (self.narrow_sums and not _lut_fits(x, w, k))
        )

    def kernel(self, rows: int) -> Kernel:
        """The kernel for a number of rows."""
        return self.gemm if rows >= self.gemm_from else self.gemv


_DOT = ("vnni", "avxvnni", "dotprod")

CARRY_SAVE = Strategy(
    x=(Encoding.TERNARY,),
    w=(Encoding.TERNARY,),
    needs=("neon",),
    gemv=Kernel.CARRY_SAVE,
    gemm=Kernel.CARRY_SAVE,
    why="one count of bits per word instead of two: the adder costs less than the second count",
)
POPCOUNT = Strategy(
    x=BITS,
    w=BITS,
    gemv=Kernel.POPCOUNT,
    gemm=Kernel.POPCOUNT,
    why="AND or XOR of planes and a count of bits: 64 products in a few instructions",
)

LINEAR = (
    Strategy(
        x=BYTES,
        w=(Encoding.INT8,),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMM,
        gemm_from=GEMM_FROM,
        why="weights lie as embeddings read them; many rows share one reordering for byte instructions",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.BINARY,),
        needs=_DOT,
        gemv=Kernel.PACKED_DOT,
        gemm=Kernel.UNPACKED_DOT,
        gemm_from=UNPACK_FROM,
        why="byte dot products add into 32 bits; few rows mask codes in place, many share one unpacking",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.TERNARY,),
        needs=_DOT,
        gemv=Kernel.PACKED_DOT,
        gemm=Kernel.UNPACKED_DOT,
        gemm_from=UNPACK_FROM,
        layout=Layout.PAIRS,
        why="as for binary weights; both bits of a code lie side by side, so that one mask leaves it",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.BINARY, Encoding.TERNARY),
        needs=("neon",),
        gemv=Kernel.LUT_SUMS,
        gemm=Kernel.LUT_SUMS,
        layout=Layout.QUARTERS,
        why="no byte dot product: one TBL looks up 16 sums of four activations, in bytes",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.BINARY, Encoding.TERNARY),
        gemv=Kernel.POPCOUNT,
        gemm=Kernel.UNPACKED_DOT,
        gemm_from=GEMM_FROM,
        why="no byte dot product into 32 bits: few rows count bits of their planes, many unpack the weights",
    ),
    Strategy(
        x=BITS,
        w=(Encoding.BINARY, Encoding.TERNARY),
        needs=("avx2",),
        without="vpopcntdq",
        gemv=Kernel.POPCOUNT,
        gemm=Kernel.LUT_GEMM,
        gemm_from=GEMM_FROM,
        narrow_sums=True,
        why="no vector popcount: one byte shuffle looks up products that take nine instructions to count",
    ),
    CARRY_SAVE,
    POPCOUNT,
)
"""Linear layers. Their weights are BINARY, TERNARY or INT8."""

SCORES = (
    Strategy(
        x=BYTES,
        w=(Encoding.INT8,),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMM,
        gemm_from=GEMM_FROM,
        why="as in linear layers: many queries share one reordering of the keys for byte instructions",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.UINT8,),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMV,
        why="the byte instructions want a signed operand in the place of the keys",
    ),
    CARRY_SAVE,
    POPCOUNT,
)
"""Attention scores, Q.K^T."""

OUTPUTS = (
    Strategy(
        x=BYTES,
        w=BYTES,
        gemv=Kernel.FLOAT_SUMS,
        gemm=Kernel.FLOAT_SUMS,
        why="the scales of values differ by token, so that sums over tokens are not sums of integers",
    ),
    CARRY_SAVE,
    POPCOUNT,
)
"""Attention outputs, P.V."""


def strategy(
    x: Encoding, w: Encoding, isa: Isa, k: int = WORD_BITS, table: tuple[Strategy, ...] = LINEAR
) -> Strategy:
    """How rows of codes are multiplied with columns of codes.

    Args:
        x: encoding of the rows.
        w: encoding of the columns.
        isa: the CPU's features.
        k: length of the dot products.
        table: `LINEAR`, `SCORES` or `OUTPUTS`.

    Raises:
        LoweringError: no kernel multiplies such codes.

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
    """Whether bits of a product are counted by `CarrySaveAccumulator`, which takes x inverted.

    Args:
        x: encoding of the rows.
        w: encoding of the columns.
        isa: the CPU's features.
    """
    return CARRY_SAVE.fits(x, w, isa, WORD_BITS)


@cache
def _lut_fits(x: Encoding, w: Encoding, k: int) -> bool:
    """Whether an index of the table has at most 8 bits, and a sum of `k` products at most 16."""
    tables = ProductTable(bit_product(x, w))
    largest = tables.max_entry * words_for(k) * WORD_BITS // tables.group
    return tables.index_bits <= 8 and largest < 1 << 16
