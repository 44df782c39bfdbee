"""Linear layers with 1 or 2 bit weights: quantize, pack, popcount, scale and bias in one function.

    y[m, n] = float(sum_k cx[m, k] * cw[n, k]) * (sx[m] * sw[n]) + bias[n]

The integer sum is exact. sx is the learned scale, or the row's own one for 8-bit activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.isa import VECTORS_PER_BLOCK, Isa
from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.kernels.bitproduct import BitProduct, bit_product, plane_count
from tbt_compile.codegen.kernels.quantize import RowFormat, pack_row
from tbt_compile.codegen.kernels.tile import Columns, dot_tile, row_terms, row_tile_vectors, tile_shape
from tbt_compile.codegen.layouts import interleaved_shape, words_for
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T
from tbt_compile.encoding import Encoding

_CHUNK_ROWS = 64
_PARALLEL_WORDS = 1 << 19


@dataclass(frozen=True)
class LinearSpec:
    """A linear layer.

    Attributes:
        n: output features.
        k: input features.
        activation: any quantized encoding.
        weight: BINARY or TERNARY.
        center: subtract the row mean of signed 1 and 2 bit activations.
        has_bias: whether there is a bias argument.
        isa: instruction set to schedule for; it also fixes the weight layout.
    """

    n: int
    k: int
    activation: Encoding
    weight: Encoding
    center: bool
    has_bias: bool
    isa: Isa


def linear(spec: LinearSpec) -> PrimFunc:
    """A linear layer over M rows, M known at run time.

    Arguments:
        x: float32 [M, K]
        act_scale: float32 [1], the learned scale; not read for 8-bit activations
        w: uint64 [ceil(N / isa.block), ceil(K / 64), P, isa.block], from `layouts.interleave`
        w_scale: float32 [N]
        bias: float32 [N], only if `has_bias`
        y: float32 [M, N], the output
    """
    return emit.function("linear", lambda: _Linear(spec).emit())


class _Linear:
    """The arguments and scratch buffers that the parts of the kernel share."""

    def __init__(self, spec: LinearSpec) -> None:
        self.spec = spec
        self.product: BitProduct = bit_product(spec.activation, spec.weight)
        self.words = words_for(spec.k)
        self.planes = plane_count(spec.activation)
        self.rows = emit.symbol("m")
        self.x = emit.argument("x", (self.rows, spec.k), "float32")
        self.act_scale = emit.argument("act_scale", (1,), "float32")
        shape = interleaved_shape(spec.n, spec.k, spec.weight, spec.isa)
        self.w = emit.argument("w", shape, "uint64")
        self.w_scale = emit.argument("w_scale", (spec.n,), "float32")
        self.bias: Buffer | None = emit.argument("bias", (spec.n,), "float32") if spec.has_bias else None
        self.y = emit.argument("y", (self.rows, spec.n), "float32")
        self.packed = emit.scratch("packed", (_CHUNK_ROWS, self.words, self.planes), "uint64")
        self.row_sums = emit.scratch("row_sums", (_CHUNK_ROWS,), "int32")
        self.row_scales = emit.scratch("row_scales", (_CHUNK_ROWS,), "float32")

    def emit(self) -> None:
        """Rows in chunks: a chunk is packed once, then every weight block is streamed past it."""
        with emit.loop("chunk", T.ceildiv(self.rows, _CHUNK_ROWS)) as chunk:
            first = chunk * _CHUNK_ROWS
            count = emit.let(T.min(T.int64(_CHUNK_ROWS), self.rows - first))
            with emit.loop("row", count) as row:
                self.pack(first + row, row)
            self.share_out(count, lambda block: self.block(first, count, block))

    def share_out(self, count: Expr, body: emit.Body) -> None:
        """Runs `body` for every weight block, on all threads where there is enough work for them."""
        blocks = int(self.w.shape[0])
        row_work = blocks * self.spec.isa.block * self.words * len(self.product.terms)
        fewest = -(-_PARALLEL_WORDS // row_work)

        def serial() -> None:
            with emit.loop("block", blocks) as block:
                body(block)

        def threads() -> None:
            with emit.parallel("block", blocks) as block:
                body(block)

        many: Expr | bool = count >= fewest
        if blocks == 1 or fewest > _CHUNK_ROWS:
            many = False
        elif fewest <= 1:
            many = True
        emit.branch(many, threads, serial)

    def pack(self, source: Expr, row: Expr) -> None:
        """Quantizes one row into `packed`, `row_sums` and `row_scales`."""
        spec = self.spec
        scale = emit.let(self.act_scale[0])
        sums = emit.Register("sums", "int32", 1, T.int32(spec.k * self.product.per_element))

        def put(word: Expr, planes: list[Expr]) -> None:
            for index, plane in enumerate(planes):
                emit.store(self.packed, plane, row, word, index)
            if self.product.row:
                stored = [self.packed[row, word, index] for index in range(self.planes)]
                sums.add(row_terms(self.product, stored))

        form = RowFormat(spec.activation, spec.center)
        dynamic = pack_row(
            lambda k, lanes: emit.load(self.x, source, k, lanes=lanes), spec.k, scale, form, put
        )
        emit.store(self.row_sums, sums.get(), row)
        emit.store(self.row_scales, scale if dynamic is None else dynamic, row)

    def block(self, first: Expr, count: Expr, block: Expr) -> None:
        """One weight block against all packed rows: register tiles, then the rows left over."""
        isa = self.spec.isa
        most = -(-self.spec.n // isa.word_lanes)
        height, width = tile_shape(self.product, isa, most)
        if height > 1:
            with emit.loop("tile", count // height) as index:
                self.tiles(first, index * height, height, block, width)
        start = count // height * height if height > 1 else T.int64(0)
        with emit.loop("row", count - start) as row:
            self.tiles(first, start + row, 1, block, row_tile_vectors(self.product, isa, most))

    def tiles(self, first: Expr, row: Expr, height: int, block: Expr, width: int) -> None:
        """The columns of a block, `width` vectors at a time, for `height` rows from `row` on."""
        with emit.loop("part", VECTORS_PER_BLOCK // width) as part:
            self.tile(first, row, height, block, part, width)

    def tile(self, first: Expr, row: Expr, height: int, block: Expr, part: Expr, width: int) -> None:
        lanes = self.spec.isa.word_lanes
        offsets = [(part * width + v) * lanes for v in range(width)]
        rows = [lambda word, plane, r=r: self.packed[row + r, word, plane] for r in range(height)]
        columns = [
            Columns(lambda word, plane, o=o: emit.load(self.w, block, word, plane, o, lanes=lanes), lanes)
            for o in offsets
        ]
        sums = dot_tile(self.product, self.words, rows, columns, self.spec.isa)
        for r in range(height):
            scale = emit.let(self.row_scales[row + r])
            row_sum = emit.let(self.row_sums[row + r])
            for v, offset in enumerate(offsets):
                total = emit.let(sums[r][v] + emit.splat(row_sum, lanes))
                self.finish(first + row + r, block * self.spec.isa.block + offset, total, scale)

    def finish(self, m: Expr, n: Expr, total: Expr, scale: Expr) -> None:
        """Scale, bias and store of one vector of outputs; only the columns that exist."""
        lanes = self.spec.isa.word_lanes
        size = self.spec.n

        def whole() -> None:
            emit.store(self.y, self.scaled(total, scale, n, lanes), m, n, lanes=lanes)

        def partial() -> None:
            spill = emit.scratch("spill", (lanes,), "int32")
            emit.store(spill, total, 0, lanes=lanes)
            with emit.loop("lane", T.min(T.int64(lanes), T.max(T.int64(0), size - n))) as lane:
                emit.store(self.y, self.scaled(spill[lane], scale, n + lane, 1), m, n + lane)

        emit.branch(True if size % self.spec.isa.block == 0 else n + lanes <= size, whole, partial)

    def scaled(self, total: Expr, scale: Expr, n: Expr, lanes: int) -> Expr:
        weight = emit.load(self.w_scale, n, lanes=lanes)
        y = emit.cast(total, "float32", lanes) * (emit.splat(scale, lanes) * weight)
        return y if self.bias is None else y + emit.load(self.bias, n, lanes=lanes)
