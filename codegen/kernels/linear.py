"""Linear layers with 1 or 2 bit weights: quantize, pack, popcount, scale and bias in one function.

    y[m, n] = float(sum_k cx[m, k] * cw[n, k]) * (sx[m] * sw[n]) + bias[n]

The integer sum is exact. sx is the learned scale, or the row's own one for 8-bit activations.
"""

from __future__ import annotations

from tbt_compile.codegen.kernels import emit, linear_bytes, linear_fields, linear_lookup
from tbt_compile.codegen.kernels.bitproduct import bit_product
from tbt_compile.codegen.kernels.linear_bytes import ByteProduct
from tbt_compile.codegen.kernels.linear_fields import FieldProduct
from tbt_compile.codegen.kernels.linear_int8 import linear_int8
from tbt_compile.codegen.kernels.linear_lookup import LookupProduct, Tables, tables_for
from tbt_compile.codegen.kernels.linear_spec import LinearSpec
from tbt_compile.codegen.kernels.loops import chunks, row_of, share_columns
from tbt_compile.codegen.kernels.rows import Finish, PackedRows, store_existing
from tbt_compile.codegen.kernels.tile import Columns
from tbt_compile.codegen.layouts import interleaved_shape
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError

_CHUNK_ROWS = 64
_BYTE_WORK = 4
_LOOKUP_WORK = 4
_FIELD_WORK = 8
_GROUP_BYTES = 24 << 10
_FEWEST_GROUPS = 8


def linear(spec: LinearSpec) -> PrimFunc:
    """A linear layer over M rows, M known at run time; with INT8 weights, `linear_int8`.

    Arguments:
        x: float32 [M, K]
        act_scale: float32 [1], the learned scale; not read for 8-bit activations
        w: uint64 [ceil(N / isa.block), ceil(K / 64), P, isa.block], from `layouts.interleave`
        w_scale: float32 [N]
        bias: float32 [N], only if `has_bias`
        y: float32 [M, N], the output

    Raises:
        LoweringError: the weights have 8 bits and the activations have not.
    """
    if spec.weight is Encoding.INT8:
        if not spec.activation.dynamic:
            raise LoweringError(
                f"a linear layer of {spec.activation.name} activations and INT8 weights: "
                "expected 8-bit activations"
            )
        return linear_int8(spec)
    return emit.function("linear", lambda: _Linear(spec).body())


class _Linear:
    """The arguments and scratch buffers that the parts of the kernel share."""

    def __init__(self, spec: LinearSpec) -> None:
        self.spec = spec
        self.rows = emit.symbol("m")
        self.x = emit.argument("x", (self.rows, spec.k), "float32")
        self.act_scale = emit.argument("act_scale", (1,), "float32")
        shape = interleaved_shape(spec.n, spec.k, spec.weight, spec.isa)
        self.w = emit.argument("w", shape, "uint64")
        self.w_scale = emit.argument("w_scale", (spec.n,), "float32")
        self.bias: Buffer | None = emit.argument("bias", (spec.n,), "float32") if spec.has_bias else None
        self.y = emit.argument("y", (self.rows, spec.n), "float32")
        self.product = bit_product(spec.activation, spec.weight)

    def body(self) -> None:
        """Rows in chunks: a chunk is packed once, then every weight block is streamed past it."""

        tables = tables_for(self.spec)

        def chunk(first: Expr, count: Expr) -> None:
            def few() -> None:
                (self.fields if linear_fields.suits(self.spec) else self.planes)(first, count)

            if self.spec.activation.dynamic:
                many = count >= linear_bytes.FEWEST_ROWS
                emit.branch(many, lambda: self.bytes(first, count), few)
            elif tables is not None:
                many = count >= linear_lookup.FEWEST_ROWS
                emit.branch(many, lambda: self.lookup(first, count, tables), few)
            else:
                few()

        chunks(self.rows, _CHUNK_ROWS if tables is None else linear_lookup.CHUNK_ROWS, chunk)

    def planes(self, first: Expr, count: Expr) -> None:
        """A chunk of rows by popcount."""
        packed = PackedRows(self.product, self.spec.isa, self.spec.k, _CHUNK_ROWS)
        scale = emit.let(self.act_scale[0])
        with emit.loop("row", count) as row:
            packed.pack(row, row_of(self.x, first + row), scale, self.spec.center)

        block = self.spec.isa.block
        together = self.together()

        def group(index: Expr) -> None:
            first_block = index * together

            def columns(offset: Expr, lanes: int) -> Columns:
                return self.columns(first_block + offset // block, offset % block, lanes)

            packed.multiply(count, columns, together * block, self.finish_at(first, first_block))

        self.share(count, len(self.product.terms), together, group)

    def together(self) -> int:
        """Weight blocks that pass by the rows together, so that outputs are written in longer pieces."""
        blocks, words, planes, columns = (int(size) for size in self.w.shape)
        most = min(blocks // _FEWEST_GROUPS, _GROUP_BYTES // (8 * words * planes * columns))
        return next((size for size in range(most, 1, -1) if blocks % size == 0), 1)

    def bytes(self, first: Expr, count: Expr) -> None:
        """A chunk of many 8-bit rows."""
        product = ByteProduct(self.spec, _CHUNK_ROWS)
        with emit.loop("row", count) as row:
            product.pack(row, row_of(self.x, first + row))

        def block(index: Expr) -> None:
            product.multiply(count, self.w, index, self.finish_at(first, index))

        self.share(count, _BYTE_WORK, 1, block)

    def fields(self, first: Expr, count: Expr) -> None:
        """A few 8-bit rows, by dot products with the packed weights."""
        product = FieldProduct(self.spec, linear_bytes.FEWEST_ROWS)
        with emit.loop("row", count) as row:
            product.pack(row, row_of(self.x, first + row))

        def block(index: Expr) -> None:
            product.multiply(count, self.w, index, self.finish_at(first, index))

        self.share(count, _FIELD_WORK, 1, block)

    def lookup(self, first: Expr, count: Expr, tables: Tables) -> None:
        """A chunk of many rows by table look-up."""
        product = LookupProduct(self.spec, tables, linear_lookup.CHUNK_ROWS)
        scale = emit.let(self.act_scale[0])
        with emit.loop("row", count) as row:
            product.pack(row, row_of(self.x, first + row), scale)

        def block(index: Expr) -> None:
            product.multiply(count, self.w, index, self.finish_at(first, index))

        self.share(count, _LOOKUP_WORK, 1, block)

    def share(self, count: Expr, work_per_word: int, together: int, body: emit.Body) -> None:
        """Runs `body` for every `together` weight blocks, on several threads if it pays."""
        blocks, words, _, columns = (int(size) for size in self.w.shape)
        share_columns(count, _CHUNK_ROWS, blocks // together, blocks * columns * words * work_per_word, body)

    def columns(self, block: Expr, offset: Expr, lanes: int) -> Columns:
        """Columns of a weight block, from `offset` on."""
        return Columns(lambda word, plane: emit.load(self.w, block, word, plane, offset, lanes=lanes), lanes)

    def finish_at(self, first: Expr, block: Expr) -> Finish:
        """What is done with the sums of a weight block and of the chunk that starts at row `first`."""
        start = block * self.spec.isa.block
        return lambda row, offset, lanes, total, scale: self.finish(
            first + row, start + offset, lanes, total, scale
        )

    def finish(self, m: Expr, n: Expr, lanes: int, total: Expr, scale: Expr) -> None:
        """Scale, bias and store of one vector of outputs; only the columns that exist."""
        size = self.spec.n
        store_existing(
            True if size % self.spec.isa.block == 0 else n + lanes <= size,
            lanes,
            size - n,
            total,
            lambda values: emit.store(self.y, self.scaled(values, scale, n, lanes), m, n, lanes=lanes),
            lambda lane, value: emit.store(self.y, self.scaled(value, scale, n + lane, 1), m, n + lane),
        )

    def scaled(self, total: Expr, scale: Expr, n: Expr, lanes: int) -> Expr:
        weight = emit.load(self.w_scale, n, lanes=lanes)
        y = emit.cast(total, "float32", lanes) * (emit.splat(scale, lanes) * weight)
        return y if self.bias is None else y + emit.load(self.bias, n, lanes=lanes)
