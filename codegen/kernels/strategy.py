"""Kernel dispatch: tables of strategies, searched from the top; the first row that fits is used.

A row names the encodings it applies to, the CPU features it needs, the kernel for few rows of activations
(GEMV) and for many (GEMM), the number of rows from which GEMM is used, the layout of the weights, and the
reason. `tbt targets` prints the rows chosen on each CPU.

To add a kernel:

    1. add it to `Kernel` in `dispatch.py`, and write it in `linear/`, as a class with the members of
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

from tbt_compile.codegen.kernels.dispatch import GEMM_FROM, UNPACK_FROM, Kernel, Strategy, matrix_key
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError

BITS = (Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01, Encoding.TERNARY012)
"""Codes of 1 and 2 bits, stored as bit-planes."""
BYTES = (Encoding.INT8, Encoding.UINT8)
"""Codes of 8 bits, with a dynamic scale per row."""
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
        needs=("avx2",),
        without=("avx512bw", "avxvnni"),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMM,
        gemm_from=UNPACK_FROM,
        why="VPMADDUBSW gains less than byte dots into 32 bits from reordered weights",
    ),
    Strategy(
        x=BYTES,
        w=(Encoding.INT8,),
        gemv=Kernel.INT8_GEMV,
        gemm=Kernel.INT8_GEMM,
        gemm_from=GEMM_FROM,
        why="weights stay in the order that embeddings read; many rows share one reordering for byte dots",
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
        without=("vpopcntdq",),
        gemv=Kernel.POPCOUNT,
        gemm=Kernel.LUT_GEMM,
        gemm_from=GEMM_FROM,
        narrow_sums=True,
        why="no vector popcount: one byte shuffle looks up products that take nine instructions otherwise",
    ),
    Strategy(
        x=(Encoding.BINARY, Encoding.TERNARY, Encoding.BINARY01),
        w=(Encoding.TERNARY,),
        needs=("avx2",),
        without=("vpopcntdq",),
        gemv=Kernel.SMALL_SUMS,
        gemm=Kernel.LUT_GEMM,
        gemm_from=UNPACK_FROM,
        layout=Layout.OCTETS,
        narrow_sums=True,
        why="no vector popcount: few rows look up sums of four activations, many look up products",
    ),
    Strategy(
        x=BITS,
        w=(Encoding.TERNARY,),
        needs=("avx2",),
        without=("vpopcntdq",),
        gemv=Kernel.SMALL_SUMS,
        gemm=Kernel.SMALL_SUMS,
        layout=Layout.OCTETS,
        why="as above, where the products are of {0, 1, 2}, or their sums do not fit 16 bits",
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
