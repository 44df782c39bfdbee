"""Linear layers with 8-bit weights and 8-bit activations, by byte dot products.

The weights stay in stored order, int8 [N, K], since embeddings read them too. GEMV reads them in place; GEMM
first reorders a block of weights for the byte instructions, [K / 4, columns, 4], or [K / 8, columns, 8] for
SMMLA.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dispatch import UNPACK_FROM
from tbt_compile.codegen.kernels.dot.byte_dot import GROUP
from tbt_compile.codegen.kernels.dot.byte_rows import ByteRows, rows_at_once
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import for_lanes
from tbt_compile.codegen.kernels.linear.matrix_dot import GROUP as MATRIX_GROUP
from tbt_compile.codegen.kernels.linear.matrix_dot import MatrixDot
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.kernels.linear.unpacked_dot import UnpackedDot
from tbt_compile.codegen.target.isa import WORD_BITS
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding


class Int8Gemv:
    """A few rows of byte activations, and their products with int8 weights [N, K]; a `ChunkProduct`."""

    chunk_rows = UNPACK_FROM
    packs_tables = False
    ops_per_word = 16
    blocks_per_task = 1

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.rows = ByteRows(spec.activation, spec.isa, spec.k, self.chunk_rows, products=True)

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row."""
        self.rows.pack(row, load, self.spec.floor)

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: int8 [N, K].
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        size = self.spec.isa.block
        first = emit.let(block * size)

        def weights(column: Expr) -> emit.Load:
            return lambda k, lanes: emit.load(w, first + column, k, lanes=lanes)

        def columns(start: Expr, together: int) -> None:
            with emit.loop("row", count) as row:
                if together == 1:
                    totals = self.rows.dot(row, weights(start), Encoding.INT8)
                else:
                    some = [weights(start + column) for column in range(together)]
                    totals = self.rows.dots(row, some, Encoding.INT8)
                epilogue(row, start, together, emit.let(totals), emit.let(self.rows.scales[row]))

        left = emit.let(T.min(T.int64(size), self.spec.n - first))
        for_lanes(left, rows_at_once(self.spec.isa), columns)


class Int8Gemm(UnpackedDot):
    """Many rows of byte activations, and their products with int8 weights [N, K]; a `ChunkProduct`."""

    int8_weights = True

    def columns_left(self, first: Expr) -> Expr:
        """The number of columns from `first` on."""
        return self.spec.n - first

    def read(self, w: Buffer, column: Expr, k: Expr, lanes: int) -> Expr:
        """Load adjacent weights of a column.

        Args:
            w: int8 [N, K].
            column: row of w.
            k: the first element.
            lanes: number of elements.

        Returns:
            int8, a vector of `lanes`.
        """
        return emit.load(w, column, k, lanes=lanes)

    def unpack(self, w: Buffer, block: Expr, out: Buffer) -> None:
        """Reorder a block of columns for the byte instructions.

        Args:
            w: int8 [N, K].
            block: index of the block.
            out: int8 or uint8 [K / 4, columns * 4].
        """
        first = emit.let(block * self.spec.isa.block)

        def codes(column: Expr, k: Expr, lanes: int) -> Expr:
            codes = self.read(w, first + column, k, lanes)
            if self.dot.biased:
                codes = emit.cast(codes, "uint8", lanes) ^ emit.splat(T.uint8(128), lanes)
            return codes

        _reorder(codes, self.columns_left(first), self.spec, GROUP, out)


class Int8Matrix(MatrixDot):
    """`Int8Gemm` by SMMLA; a `ChunkProduct`."""

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: int8 [N, K].
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        self.multiply_unpacked(count, w, block, epilogue)

    def unpack(self, w: Buffer, block: Expr, out: Buffer) -> None:
        """Reorder a block of columns for SMMLA.

        Args:
            w: int8 [N, K].
            block: index of the block.
            out: int8 [K / 8, columns * 8].
        """
        first = emit.let(block * self.spec.isa.block)

        def codes(column: Expr, k: Expr, lanes: int) -> Expr:
            return emit.load(w, first + column, k, lanes=lanes)

        _reorder(codes, self.spec.n - first, self.spec, MATRIX_GROUP, out)

    def lanes_of(self, place: int) -> range:
        """The elements of a word that operand `place` holds."""
        return range(place * MATRIX_GROUP, (place + 1) * MATRIX_GROUP)

    def sum_codes(self, row: Expr) -> None:
        """Nothing: the weights are multiplied as they are."""

    def total(self, _row: Expr, sums: Expr, _lanes: int) -> Expr:
        """The dot products of a row; see `MatrixDot.total`.

        Args:
            _row: index of the row.
            sums: int32, its products with the weights.
            _lanes: lanes of `sums`.

        Returns:
            The sums themselves.
        """
        return sums


def _reorder(
    codes: Callable[[Expr, Expr, int], Expr], columns_left: Expr, spec: LinearSpec, group: int, out: Buffer
) -> None:
    """Store the columns of a block by groups of adjacent elements.

    Missing columns are not written, since their sums are never stored; padding of K is zero.
    """
    size, length = spec.isa.block, spec.k
    with emit.loop("column", T.min(T.int64(size), columns_left)) as column:

        def move(k: Expr, lanes: int) -> None:
            emit.store(out, codes(column, k, lanes), k // group, column * group + k % group, lanes=lanes)

        for_lanes(length, group, move)
    with emit.loop("rest", -length % WORD_BITS) as rest, emit.loop("octet", size) as column:
        k = length + rest
        emit.store(out, T.cast(0, out.dtype), k // group, column * group + k % group)
