"""Linear layers of 8-bit activations and 1 or 2 bit weights by LUT, for x86 CPUs without VNNI.

A step multiplies one byte of a weight plane of every column with the tables of `dot/sum_tables.py`:

    load     `Layout.OCTETS`: a vector has the same byte of the 32 columns of a block.
    index    an AND, or a shift and an AND, for the low and the high nibble of every byte.
    look up  VPSHUFB, in the same 16 bytes for all columns.
    add      the looked up bytes as 16-bit lanes to one sum, and the high byte of every lane (VPMADDUBSW with
             0 and 1) to another: the sums of the odd columns, and what they added to those of the even ones.

The addition takes three instructions for 32 products of four activations; a multiplication of unpacked
weights takes VPMADDUBSW and an addition for 32 products of one.
"""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.codegen.kernels.dot.lut_tables import COLUMNS, byte_splat
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dot.sum_tables import Steps, SumTables
from tbt_compile.codegen.kernels.dot.weight_planes import flat, words_per_block
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.linear.lut_gemm import byte_shuffle
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

BLOCK = 32
"""Columns of a block, and bytes of a vector: those of AVX2, with AVX-512 too."""
_HALF = BLOCK // 2
_WORDS = BLOCK // 8
STEPS_BEFORE_WIDENING = 128
"""Steps before 16-bit sums must be widened: the two lookups of a step add at most 2 * 255."""


class ShuffleSums:
    """A chunk of rows as tables of subset sums, and its products with weight blocks; a `ChunkProduct`."""

    chunk_rows = 8  # their tables fit the L2 cache
    ops_per_word = 4
    blocks_per_task = 1

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.tables = SumTables(spec, self.chunk_rows, octets=1)
        self.pack = self.tables.pack

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, P, 32], in `Layout.OCTETS`.
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        with emit.loop("row", count) as row:
            self._multiply_row(row, w, block, epilogue)

    def _multiply_row(self, row: Expr, w: Buffer, block: Expr, epilogue: Epilogue) -> None:
        planes, lanes = self.spec.weight.planes, self.spec.isa.float_lanes
        weights, start = flat(w), emit.let(block * words_per_block(w))
        totals = [[_zeros("total", "int32") for _ in range(2)] for _ in range(planes)]

        def run(several: Sequence[Steps]) -> None:
            sums = [_Sums() for _ in range(planes)]
            for steps in several:
                with emit.loop("step", steps.count) as index:
                    step = emit.let(steps.first + index)
                    vector = emit.let(start + steps.vector_of(step) * (planes * _WORDS))
                    tables = [self._load_table(row, step, table) for table in range(2)]
                    for plane, added in enumerate(sums):
                        words = emit.load(weights, vector + plane * _WORDS, lanes=_WORDS)
                        octets = emit.let(T.reinterpret(f"uint8x{BLOCK}", words))
                        added.add(byte_shuffle(tables[0], octets & byte_splat(0x0F, BLOCK), BLOCK))
                        added.add(byte_shuffle(tables[1], octets >> byte_splat(4, BLOCK), BLOCK))
            for halves, added in zip(totals, sums, strict=True):
                for total, half in zip(halves, added.widened(), strict=True):
                    total.add(half)

        self.tables.runs(row, STEPS_BEFORE_WIDENING, run)
        scale = emit.let(self.tables.rows.scales[row])
        # Even and odd columns are separate until here.
        even, odd = (
            self.tables.total(row, [halves[parity].get() for halves in totals], _HALF) for parity in range(2)
        )
        for first in range(0, BLOCK, lanes):
            places = [T.int32(column // 2 + column % 2 * _HALF) for column in range(first, first + lanes)]
            epilogue(row, T.int64(first), lanes, emit.let(T.Shuffle([even, odd], places)), scale)

    def _load_table(self, row: Expr, step: Expr, table: int) -> Expr:
        """A table, in both halves of a vector."""
        half = emit.let(emit.load(self.tables.tables, row, step, table * COLUMNS, lanes=COLUMNS))
        return emit.let(emit.concat([half, half], COLUMNS))


class _Sums:
    """16-bit sums of bytes of the 32 columns."""

    def __init__(self) -> None:
        self._whole = _zeros("whole", "uint16")
        self._odd = _zeros("odd", "uint16")

    def add(self, octets: Expr) -> None:
        octets = emit.let(octets)
        self._whole.add(T.reinterpret(f"uint16x{_HALF}", octets))
        self._odd.add(_odd_octets(octets))

    def widened(self) -> tuple[Expr, Expr]:
        """The sums of the even and of the odd columns, int32; the former modulo 2**16 until here."""
        odd = emit.let(self._odd.get())
        even = self._whole.get() - (odd << emit.splat(T.uint16(8), _HALF))
        return emit.cast(even, "int32", _HALF), emit.cast(odd, "int32", _HALF)


def _zeros(name: str, dtype: str) -> emit.Register:
    return emit.Register(name, dtype, _HALF, emit.splat(T.cast(0, dtype), _HALF))


def _odd_octets(octets: Expr) -> Expr:
    """The odd bytes as 16-bit lanes. Shifts use the ports of the shuffles on Zen; VPMADDUBSW does not."""
    pattern = emit.splat(T.int16(0x0100), _HALF)
    ones = T.reinterpret(f"int8x{BLOCK}", pattern)
    return T.reinterpret(
        f"uint16x{_HALF}",
        T.call_llvm_pure_intrin(f"int16x{_HALF}", "llvm.x86.avx2.pmadd.ub.sw", octets, ones),
    )
