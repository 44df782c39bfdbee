"""A chunk of rows, quantized and packed, and its products with packed columns."""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dot.bit_product import BitProduct, plane_count
from tbt_compile.codegen.kernels.dot.register_tile import (
    Columns,
    ReadRow,
    dot_tile,
    joined,
    row_terms,
    row_tile_vectors,
    tile_shape,
)
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.quantize import RowFormat, pack_row
from tbt_compile.codegen.kernels.strategy import counts_with_carry_save
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.tvm_api import Expr, T

ColumnsAt = Callable[[Expr, int], Columns]
"""`columns_at(offset, lanes)`: the columns offset .. offset + lanes - 1."""
Finish = Callable[[Expr, Expr, int, Expr, Expr], None]
"""`finish(row, offset, lanes, total, row_scale)`: stores int32 dot products of one row."""


class PackedRows:
    """Scratch space for up to `capacity` packed rows of `length` elements each.

    Attributes:
        product: how the rows are multiplied.
        words: uint64 words in a row.
    """

    def __init__(self, product: BitProduct, isa: Isa, length: Expr | int, capacity: int) -> None:
        self.product = product
        self.isa = isa
        self.length = length
        self.words = (length + 63) // 64
        self.planes = plane_count(product.x)
        self.inverted = counts_with_carry_save(product.x, product.w, isa)
        # On AArch64 every word is there twice: one load brings two vectors, or one word for all lanes.
        self.copies = isa.word_lanes if isa.has("neon") else 1
        self.bits = emit.scratch("packed", (capacity, self.words, self.planes, self.copies), "uint64")
        self.sums = emit.scratch("row_sums", (capacity,), "int32")
        self.scales = emit.scratch("row_scales", (capacity,), "float32")

    def pack(self, row: Expr, load: emit.Load, scale: Expr, center: bool) -> None:
        """Quantizes and packs one row; `scale` is the learned one and not used by 8-bit encodings."""
        constant = T.cast(self.length, "int32") * T.int32(self.product.per_element)
        if self.inverted:
            constant = T.cast(self.words, "int32") * T.int32(-WORD_BITS)
        total = emit.Register("row_sum", "int32", 1, constant)

        def put(word: Expr, planes: list[Expr]) -> None:
            for index, plane in enumerate(planes):
                stored = emit.splat(~plane if self.inverted else plane, self.copies)
                emit.store(self.bits, stored, row, word, index, 0, lanes=self.copies)
            if self.product.row:
                stored = [self.bits[row, word, index, 0] for index in range(self.planes)]
                total.add(row_terms(self.product, stored))

        dynamic = pack_row(load, self.length, scale, RowFormat(self.product.x, self.isa, center), put)
        emit.store(self.sums, total.get(), row)
        emit.store(self.scales, scale if dynamic is None else dynamic, row)

    def multiply(self, count: Expr, columns_at: ColumnsAt, extent: int, finish: Finish) -> None:
        """The products of the first `count` rows with columns 0 .. extent - 1, each passed to `finish`."""
        most = max(1, extent // self.isa.word_lanes)
        tile = tile_shape(self.product, self.isa, most)
        height = tile.rows
        tiled = count // height * height
        with emit.loop("tile", count // height) as index:
            self._row_tile(index * height, height, tile.vectors, columns_at, extent, finish)
        # One by one, not in a loop: LLVM would load the weights of all columns before it, and spill them.
        while height > 1:
            height //= 2
            with emit.when((count - tiled) % (2 * height) >= height):
                width = row_tile_vectors(self.product, self.isa, most, height)
                first = tiled + (count - tiled) // (2 * height) * (2 * height)
                self._row_tile(first, height, width, columns_at, extent, finish)

    def _row_tile(
        self, row: Expr, height: int, width: int, columns_at: ColumnsAt, extent: int, finish: Finish
    ) -> None:
        """All columns for `height` rows: `width` vectors at a time, then single ones, then single columns."""
        start = 0
        for vectors, lanes in ((width, self.isa.word_lanes), (1, self.isa.word_lanes), (1, 1)):
            step = vectors * lanes
            steps = (extent - start) // step
            if steps == 0:
                continue
            with emit.loop("part", steps) as part:
                offsets = [start + part * step + v * lanes for v in range(vectors)]
                self._tile(row, height, offsets, lanes, columns_at, finish)
            start += steps * step

    def _tile(
        self,
        row: Expr,
        height: int,
        offsets: list[Expr],
        lanes: int,
        columns_at: ColumnsAt,
        finish: Finish,
    ) -> None:
        rows = [self._reader(row + r) for r in range(height)]
        columns = [columns_at(offset, lanes) for offset in offsets]
        sums = dot_tile(self.product, self.words, rows, columns, self.isa)
        size = joined(columns, self.isa)
        for r in range(height):
            scale = emit.let(self.scales[row + r])
            row_sum = emit.let(self.sums[row + r])
            for offset, total in zip(offsets[::size], sums[r], strict=True):
                finish(
                    row + r, offset, size * lanes, emit.let(total + emit.splat(row_sum, size * lanes)), scale
                )

    def _reader(self, row: Expr) -> ReadRow:
        def read(word: Expr, plane: int, lanes: int) -> Expr:
            if lanes == self.copies:
                return emit.let(emit.load(self.bits, row, word, plane, 0, lanes=lanes))
            return emit.splat(emit.let(self.bits[row, word, plane, 0]), lanes)

        return read


def store_existing(
    exists: Expr | bool,
    lanes: int,
    remaining: Expr,
    values: Expr,
    whole: emit.Body,
    single: Callable[[Expr, Expr], None],
) -> None:
    """Stores a vector of int32 totals whose last columns may not exist.

    `whole(values)` stores all lanes and is used when `exists`; else `single(lane, value)` stores the first
    `remaining` lanes one by one.
    """

    def partial() -> None:
        spill = emit.scratch("spill", (lanes,), "int32")
        emit.store(spill, values, 0, lanes=lanes)
        with emit.loop("lane", T.min(T.int64(lanes), T.max(T.int64(0), remaining))) as lane:
            single(lane, spill[lane])

    emit.branch(exists, lambda: whole(values), partial)
