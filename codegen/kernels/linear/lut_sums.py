"""Linear layers of 8-bit activations and 1 or 2 bit weights by LUT, for AArch64 without byte dot products.

A step multiplies two bytes of a weight plane of every column with the tables of `dot/sum_tables.py`:

    load     `Layout.QUARTERS`: a vector has the same two bytes of 8 columns. Even and odd bytes multiply
             different activations, so each has a table. Weights that use the same tables are adjacent: one
             instruction loads two vectors.
    index    SRI or BIT inserts four weight bits below constant bits that tell odd bytes from even ones.
    look up  TBL, in 32 bytes: the table of the even bytes, then the table of the odd bytes.
    add      UADALP adds the two bytes of each column to its 16-bit sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from tbt_compile.codegen.kernels.dot.lut_tables import COLUMNS, byte_splat
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dot.sum_tables import Steps, SumTables
from tbt_compile.codegen.kernels.dot.weight_planes import flat, quarter_start
from tbt_compile.codegen.kernels.dsl import emit, neon
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.layouts import quarter_group
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

OCTETS = 2
"""Bytes of a column in a weight vector."""
STEPS_BEFORE_WIDENING = 64
"""Steps before 16-bit sums must be widened: the two lookups of a step add at most 2 * 2 * 255."""


class LutSums:
    """A chunk of rows as tables of subset sums, and its products with weight blocks; a `ChunkProduct`."""

    chunk_rows = 8  # their tables fit the L2 cache
    packs_tables = True
    ops_per_word = 12

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.blocks_per_task = quarter_group(spec.weight.planes)
        self.tables = SumTables(spec, self.chunk_rows, OCTETS)
        self.pack = self.tables.pack

    def multiply(self, count: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with weight blocks; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, P, columns], in `Layout.QUARTERS`.
            block: index of the first block.
            blocks: number of blocks, a group of the layout.
            epilogue: consumes the dot products.
        """

        def several() -> None:
            with emit.loop("row", count) as row:
                self._multiply_row(row, w, block, blocks, epilogue)

        # In a loop over rows LLVM would hoist the loads of `epilogue` out of the loop and spill them.
        emit.branch(count == 1, lambda: self._multiply_row(T.int64(0), w, block, blocks, epilogue), several)

    def _multiply_row(self, row: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """Multiply one row with a group of blocks."""
        lanes, planes = self.spec.isa.block, self.spec.weight.planes
        pieces = blocks * planes
        zero, empty = emit.splat(T.int32(0), lanes), emit.splat(T.uint16(0), lanes)
        totals = [emit.Register("total", "int32", lanes, zero) for _ in range(pieces)]
        odd = emit.splat(T.uint64(0x1000100010001000), 2)
        indices = emit.Register("numbers", "uint8", COLUMNS, T.reinterpret(neon.OCTETS, odd))
        weights, start = flat(w), emit.let(quarter_start(w, block))

        def add_up(sums: list[emit.Register], steps: Steps) -> None:
            with emit.loop("step", steps.count) as index:
                step = emit.let(steps.first + index)
                vector = emit.let(start + steps.vector_of(step) * (pieces * 2))
                tables = [
                    emit.let(emit.load(self.tables.tables, row, step, table * COLUMNS, lanes=COLUMNS))
                    for table in range(self.tables.count)
                ]
                for piece, total in enumerate(sums):
                    words = emit.load(weights, vector + piece * 2, lanes=2)
                    self._add_lookups(emit.let(T.reinterpret(neon.OCTETS, words)), tables, indices, total)

        def run(several: Sequence[Steps]) -> None:
            """Add up to `STEPS_BEFORE_WIDENING` steps in 16 bits, then widen."""
            sums = [emit.Register("sums", "uint16", lanes, empty) for _ in range(pieces)]
            for steps in several:
                add_up(sums, steps)
            for total, added in zip(totals, sums, strict=True):
                total.add(emit.cast(added.get(), "int32", lanes))

        self.tables.runs(row, STEPS_BEFORE_WIDENING, run)
        scale = emit.let(self.tables.rows.scales[row])
        for part in range(blocks):
            lookups = [total.get() for total in totals[part * planes : (part + 1) * planes]]
            epilogue(row, T.int64(part * lanes), lanes, self.tables.total(row, lookups, lanes), scale)

    @staticmethod
    def _add_lookups(octets: Expr, tables: list[Expr], indices: emit.Register, total: emit.Register) -> None:
        """Add the table entries that the high and the low nibble of every byte select.

        Only the low nibbles of `indices` are replaced; the high nibbles offset odd bytes by 16 entries.
        """
        indices.set(neon.shift_insert(indices.get(), octets))
        total.add(neon.pair_sums(neon.table_lookup(tables[2], tables[3], indices.get())))
        lower = emit.let((octets & byte_splat(0x0F)) | (indices.get() & byte_splat(0xF0)))
        total.add(neon.pair_sums(neon.table_lookup(tables[0], tables[1], lower)))
