"""Few rows of 1 or 2 bit activations and ternary weights by LUT, for x86 CPUs without vector popcount.

As `linear/shuffle_sums.py`, with tables of sums so small that bytes hold those of many steps:

    load     `Layout.OCTETS`: a vector has the same byte of the positive and negative plane of 16 columns.
    index    an AND, or a shift and an AND, for the low and the high nibble of every byte; shared by the rows
             of a tile.
    look up  VPSHUFB, in the same 16 bytes for all columns.
    add      as bytes. After a run of steps VPMADDUBSW subtracts the sums of the negative plane.

A step takes 8 instructions for 256 products, and 6 for the indices, where popcounts take about 24. The
weights are read in the order of memory.
"""

from __future__ import annotations

from tbt_compile.codegen.kernels.dispatch import UNPACK_FROM
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dot.small_tables import SmallTables
from tbt_compile.codegen.kernels.dot.sum_tables import load_table
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import row_tiles
from tbt_compile.codegen.kernels.dsl.x86 import byte_shuffle
from tbt_compile.codegen.kernels.linear.shuffle_sums import BLOCK, PackedIndices, Totals, signed_pairs
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

PIECES = 2
"""Vectors of weight bytes per step, of 16 columns each."""
_TILE_ROWS = 4
_HALF = BLOCK // 2


class SmallSums:
    """A chunk of rows as tables of subset sums, and its products with weight blocks; a `ChunkProduct`."""

    chunk_rows = UNPACK_FROM
    packs_tables = True
    ops_per_word = 10
    blocks_per_task = 1

    def __init__(self, spec: LinearSpec, scale: Expr) -> None:
        self.spec = spec
        self.scale = scale
        self.tables = SmallTables(spec, scale, self.chunk_rows)
        self.pack = self.tables.pack

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, 2, 32], in `Layout.OCTETS`.
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        indices = PackedIndices(w, block)
        row_tiles(count, _TILE_ROWS, lambda first, height: self._tile(first, height, indices, epilogue))

    def _tile(self, first: Expr, height: int, indices: PackedIndices, epilogue: Epilogue) -> None:
        """The dot products of `height` rows."""
        tables = self.tables
        totals = [Totals() for _ in range(height)]
        runs = -(-tables.vectors // tables.most_steps)
        run = -(-tables.vectors // runs)
        with emit.loop("run", runs) as index:
            zero = emit.splat(T.uint8(0), BLOCK)
            octets = [[emit.Register("octets", "uint8", BLOCK, zero) for _ in range(PIECES)] for _ in totals]
            start = emit.let(index * run)
            rest = run if tables.vectors % run == 0 else T.min(T.int64(run), tables.vectors - start)
            with emit.loop("step", rest) as offset:
                vector = emit.let(start + offset)
                indices.prefetch(vector)
                self._add_step(first, vector, indices, octets)
            for total, sums in zip(totals, octets, strict=True):
                total.add([signed_pairs(emit.let(some.get()), 1, -1) for some in sums])
        lanes = self.spec.isa.float_lanes
        for r, total in enumerate(totals):
            halves = [emit.let(half) for half in total.get()]
            for column in range(0, BLOCK, lanes):
                values = emit.let(emit.select(halves, range(column, column + lanes)))
                epilogue(first + r, T.int64(column), lanes, values, self.scale)

    def _add_step(
        self, first: Expr, vector: Expr, indices: PackedIndices, sums: list[list[emit.Register]]
    ) -> None:
        """Look up and add the products of eight activations of every row."""
        at = emit.let(vector * indices.stride)
        nibbles = [[emit.let(half) for half in indices(at, piece)] for piece in range(PIECES)]
        for r, row in enumerate(sums):
            tables = [load_table(self.tables.tables, first + r, vector, half) for half in range(2)]
            for total, halves in zip(row, nibbles, strict=True):
                for table, chosen in zip(tables, halves, strict=True):
                    total.add(byte_shuffle(table, chosen, BLOCK))
