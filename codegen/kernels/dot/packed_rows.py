"""A chunk of quantized and packed rows, and its dot products with packed columns."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from tbt_compile.codegen.kernels.dot.bit_product import BitProduct, plane_count
from tbt_compile.codegen.kernels.dot.quantize import RowFormat, pack_row
from tbt_compile.codegen.kernels.dot.register_tile import (
    Columns,
    ReadRow,
    dot_tile,
    gemm_tile,
    gemv_vectors,
    row_terms,
    vectors_per_sum,
)
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import row_tiles
from tbt_compile.codegen.kernels.strategy import counts_with_carry_save
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.tvm_api import Expr, T

ColumnsAt = Callable[[Expr, int], Columns]
"""`columns_at(offset, lanes)`: a reader of columns offset .. offset + lanes - 1."""
Epilogue = Callable[[Expr, Expr, int, Expr, Expr], None]
"""`epilogue(row, offset, lanes, total, row_scale)`: scales and stores int32 dot products of one row."""


class PackedRows:
    """A scratch buffer for up to `capacity` packed rows of `length` elements each.

    Attributes:
        product: the popcount formula of the products.
        words: uint64 words per row and plane.
    """

    def __init__(self, product: BitProduct, isa: Isa, length: Expr | int, capacity: int) -> None:
        self.product = product
        self.isa = isa
        self.length = length
        self.words = (length + 63) // 64
        self.planes = plane_count(product.x)
        self.inverted = counts_with_carry_save(product.x, product.w, isa)
        # On AArch64 every word is stored twice: a plain load broadcasts one word, and LDP two of them.
        self.copies = isa.word_lanes if isa.has("neon") else 1
        self.bits = emit.scratch("packed", (capacity, self.words, self.planes, self.copies), "uint64")
        self.sums = emit.scratch("row_sums", (capacity,), "int32")
        self.scales = emit.scratch("row_scales", (capacity,), "float32")

    def first(self, length: Expr) -> PackedRows:
        """The first elements of the rows, in the same buffer; `length` is at most that of the rows."""
        part = copy(self)
        part.length, part.words = length, (length + 63) // 64
        return part

    def pack(self, row: Expr, load: emit.Load, scale: Expr, center: bool, floor: float | None = None) -> None:
        """Quantize and pack one row.

        Args:
            row: index of the row in the buffer.
            load: loads its float32 elements.
            scale: float32, the learned scale; unused by 8-bit encodings.
            center: whether to subtract the row mean, for signed 1 and 2 bit encodings.
            floor: at 8 bits, the least that the largest magnitude counts as, if any.
        """
        constant = T.cast(self.length, "int32") * T.int32(self.product.per_element)
        if self.inverted:
            constant = T.cast(self.words, "int32") * T.int32(-WORD_BITS)
        total = emit.Register("row_sum", "int32", 1, constant)

        def store(word: Expr, planes: list[Expr]) -> None:
            for index, plane in enumerate(planes):
                stored = emit.splat(~plane if self.inverted else plane, self.copies)
                emit.store(self.bits, stored, row, word, index, 0, lanes=self.copies)
            if self.product.row:
                stored = [self.bits[row, word, index, 0] for index in range(self.planes)]
                total.add(row_terms(self.product, stored))

        form = RowFormat(self.product.x, self.isa, center, floor)
        dynamic = pack_row(load, self.length, scale, form, store)
        emit.store(self.sums, total.get(), row)
        emit.store(self.scales, scale if dynamic is None else dynamic, row)

    def multiply(self, count: Expr, columns_at: ColumnsAt, extent: int, epilogue: Epilogue) -> None:
        """Multiply the packed rows with packed columns.

        Args:
            count: number of rows, from row 0.
            columns_at: returns the reader of some columns.
            extent: number of columns.
            epilogue: consumes the dot products.
        """
        max_vectors = max(1, extent // self.isa.word_lanes)
        tile = gemm_tile(self.product, self.isa, max_vectors)

        def rows(first: Expr, height: int) -> None:
            whole = height == tile.rows
            width = tile.vectors if whole else gemv_vectors(self.product, self.isa, max_vectors, height)
            self._row_tile(first, height, width, columns_at, extent, epilogue)

        row_tiles(count, tile.rows, rows)

    def _row_tile(
        self, row: Expr, height: int, width: int, columns_at: ColumnsAt, extent: int, epilogue: Epilogue
    ) -> None:
        """All columns for `height` rows: `width` vectors at a time, then one vector, then one column."""
        start = 0
        for vectors, lanes in ((width, self.isa.word_lanes), (1, self.isa.word_lanes), (1, 1)):
            step = vectors * lanes
            steps = (extent - start) // step
            if steps == 0:
                continue
            with emit.loop("part", steps) as part:
                offsets = [start + part * step + v * lanes for v in range(vectors)]
                self._tile(row, height, offsets, lanes, columns_at, epilogue)
            start += steps * step

    def _tile(
        self,
        row: Expr,
        height: int,
        offsets: list[Expr],
        lanes: int,
        columns_at: ColumnsAt,
        epilogue: Epilogue,
    ) -> None:
        rows = [self._reader(row + r) for r in range(height)]
        columns = [columns_at(offset, lanes) for offset in offsets]
        sums = dot_tile(self.product, self.words, rows, columns, self.isa)
        size = vectors_per_sum(columns, self.isa)
        for r in range(height):
            scale = emit.let(self.scales[row + r])
            row_sum = emit.let(self.sums[row + r])
            for offset, total in zip(offsets[::size], sums[r], strict=True):
                epilogue(
                    row + r, offset, size * lanes, emit.let(total + emit.splat(row_sum, size * lanes)), scale
                )

    def _reader(self, row: Expr) -> ReadRow:
        def read(word: Expr, plane: int, lanes: int) -> Expr:
            if lanes == self.copies:
                return emit.let(emit.load(self.bits, row, word, plane, 0, lanes=lanes))
            return emit.splat(emit.let(self.bits[row, word, plane, 0]), lanes)

        return read


def store_partial(
    exists: Expr | bool,
    lanes: int,
    remaining: Expr,
    values: Expr,
    whole: emit.Body,
    single: Callable[[Expr, Expr], None],
) -> None:
    """Store a vector of sums; at the tail, where not all columns exist, spill it and store lane by lane.

    Args:
        exists: whether all lanes are columns that exist.
        lanes: lanes of the vector.
        remaining: number of columns from the first lane on; may be negative, or exceed `lanes`.
        values: int32, a vector of `lanes`.
        whole: stores all lanes, `whole(values)`.
        single: stores one lane, `single(lane, value)`.
    """

    def partial() -> None:
        spill = emit.scratch("spill", (lanes,), "int32")
        emit.store(spill, values, 0, lanes=lanes)
        with emit.loop("lane", T.min(T.int64(lanes), T.max(T.int64(0), remaining))) as lane:
            single(lane, spill[lane])

    emit.branch(exists, lambda: whole(values), partial)
