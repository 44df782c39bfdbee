"""Linear layers with 8-bit weights and 8-bit activations, by byte dot products.

The weights stay in stored order, int8 [N, K], since embeddings read them too. GEMV reads them in place; GEMM
first reorders a block of weights for the byte instructions, [K / 4, columns, 4].
"""

from __future__ import annotations

from tbt_compile.codegen.kernels.dot.byte_dot import GROUP
from tbt_compile.codegen.kernels.dot.byte_rows import ByteRows
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import for_lanes
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.kernels.linear.unpacked_dot import UnpackedDot
from tbt_compile.codegen.kernels.strategy import GEMM_FROM
from tbt_compile.codegen.target.isa import WORD_BITS
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding


class Int8Gemv:
    """A few rows of byte activations, and their products with int8 weights [N, K]; a `ChunkProduct`."""

    chunk_rows = GEMM_FROM
    ops_per_word = 16
    blocks_per_task = 1

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.rows = ByteRows(spec.activation, spec.isa, spec.k, self.chunk_rows)

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row."""
        self.rows.pack(row, load)

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
        with emit.loop("column", T.min(T.int64(size), self.spec.n - first)) as column:

            def weights(k: Expr, lanes: int) -> Expr:
                return emit.load(w, first + column, k, lanes=lanes)

            with emit.loop("row", count) as row:
                total = self.rows.dot(row, weights, Encoding.INT8)
                epilogue(row, column, 1, emit.let(total), emit.let(self.rows.scales[row]))


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

        Missing columns are not written, since their sums are never stored; padding of K is zero.

        Args:
            w: int8 [N, K].
            block: index of the block.
            out: int8 or uint8 [K / 4, columns * 4].
        """
        size, length = self.spec.isa.block, self.spec.k
        first = emit.let(block * size)
        with emit.loop("column", T.min(T.int64(size), self.columns_left(first))) as column:

            def move(k: Expr, lanes: int) -> None:
                codes = self.read(w, first + column, k, lanes)
                if self.dot.biased:
                    codes = emit.cast(codes, "uint8", lanes) ^ emit.splat(T.uint8(128), lanes)
                at = column * GROUP + k % GROUP
                emit.store(out, codes, k // GROUP, at, lanes=lanes)

            for_lanes(length, GROUP, move)
        with emit.loop("rest", -length % WORD_BITS) as rest, emit.loop("octet", size) as column:
            k = length + rest
            emit.store(out, T.cast(0, self.dot.weight_type), k // GROUP, column * GROUP + k % GROUP)
