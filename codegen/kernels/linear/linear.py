"""Fused linear layers: rotate, quantize, pack, multiply, scale, bias and activation in one function.

    y[m, n] = f(float(sum_k cx[m, k] * cw[n, k]) * (sx[m] * sw[n]) + bias[n])

The integer sum is exact. sx is the learned scale, or the dynamic scale of the row for 8-bit activations. f is
an optional activation function in the epilogue, applied in registers.
"""

from __future__ import annotations

from typing import Protocol

from tbt_compile.codegen.kernels.dispatch import Kernel
from tbt_compile.codegen.kernels.dot.hadamard import HadamardSpec, rotate_row
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue, store_partial
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import chunks, parallel_chunks, parallel_columns, row_of
from tbt_compile.codegen.kernels.float_ops.activations import ACTIVATIONS
from tbt_compile.codegen.kernels.linear.int8 import Int8Gemm, Int8Gemv, Int8Matrix
from tbt_compile.codegen.kernels.linear.lut_gemm import LutGemm
from tbt_compile.codegen.kernels.linear.lut_sums import LutSums
from tbt_compile.codegen.kernels.linear.matrix_dot import MatrixDot
from tbt_compile.codegen.kernels.linear.packed_dot import PackedDot
from tbt_compile.codegen.kernels.linear.popcount_gemm import PopcountGemm
from tbt_compile.codegen.kernels.linear.shuffle_sums import ShuffleSums
from tbt_compile.codegen.kernels.linear.small_sums import SmallSums
from tbt_compile.codegen.kernels.linear.spec import CHUNK_ROWS, LinearSpec
from tbt_compile.codegen.kernels.linear.unpacked_dot import UnpackedDot
from tbt_compile.codegen.layouts import Layout, interleaved_shape, words_for
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError


class ChunkProduct(Protocol):
    """The kernel interface: quantize a chunk of rows and multiply it with weight blocks.

    Attributes:
        chunk_rows: rows per chunk.
        ops_per_word: work per word of weights and row, in units of which 2**19 take 30 microseconds; decides
            whether to use threads.
        blocks_per_task: weight blocks per `multiply`, which is one iteration of the parallel loop.
        packs_tables: whether packed rows are tables, many times as large as the rows.
    """

    chunk_rows: int
    ops_per_word: int
    blocks_per_task: int
    packs_tables: bool

    def __init__(self, spec: LinearSpec, scale: Expr) -> None:
        """Allocate the scratch buffers; `scale` is the learned scale, float32."""

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize and pack row `row` of the chunk; `load` loads its elements, float32 [K]."""

    def multiply(self, count: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with weight blocks.

        Args:
            count: number of rows, from row 0 of the chunk.
            w: all weights, as `linear` takes them.
            block: index of the first block.
            blocks: number of blocks.
            epilogue: consumes the dot products; its column offsets count from the first block.
        """


IMPLEMENTATIONS: dict[Kernel, type[ChunkProduct]] = {
    Kernel.POPCOUNT: PopcountGemm,
    Kernel.CARRY_SAVE: PopcountGemm,
    Kernel.LUT_GEMM: LutGemm,
    Kernel.LUT_SUMS: LutSums,
    Kernel.SHUFFLE_SUMS: ShuffleSums,
    Kernel.SMALL_SUMS: SmallSums,
    Kernel.PACKED_DOT: PackedDot,
    Kernel.UNPACKED_DOT: UnpackedDot,
    Kernel.MATRIX_DOT: MatrixDot,
    Kernel.INT8_GEMV: Int8Gemv,
    Kernel.INT8_GEMM: Int8Gemm,
    Kernel.INT8_MATRIX: Int8Matrix,
}
"""The implementation of each kernel of `strategy.LINEAR`."""
_LEAST_CHUNKS, _PARALLEL_MACS = 4, 1 << 23
"""Where threads have chunks of their own: how many there have to be, and for how much work."""


def linear(spec: LinearSpec) -> PrimFunc:
    """A linear layer on M rows, M symbolic.

    Arguments:
        x: float32 [M, K]
        act_scale: float32 [1], the learned scale; not read for 8-bit activations
        w: uint64 [ceil(N / isa.block), ceil(K / 64), P, isa.block] from `layouts.arrange` with
            `spec.layout`; int8 [N, K] if the weights have 8 bits
        w_scale: float32 [N]
        bias: float32 [N], only if `has_bias`
        y: float32 [M, N], the output

    Raises:
        LoweringError: only the weights have 8 bits, or a sum of K products may exceed 32 bits.
    """
    if spec.k * spec.activation.maximum * spec.weight.maximum >= 1 << 31:
        raise LoweringError(
            f"a linear layer of {spec.k} {spec.activation.name} activations and {spec.weight.name} weights: "
            "a sum of so many products does not fit 32 bits; split the layer, or name it in `exclude`"
        )
    if spec.weight is Encoding.INT8 and not spec.activation.dynamic:
        raise LoweringError(
            f"a linear layer of {spec.activation.name} activations and INT8 weights: "
            "expected 8-bit activations"
        )
    return emit.function("linear", lambda: _Linear(spec).body())


class _Linear:
    """The arguments of the kernel, and the loops and epilogue over them."""

    def __init__(self, spec: LinearSpec) -> None:
        self.spec = spec
        self.rows = emit.symbol("m")
        self.x = emit.argument("x", (self.rows, spec.k), "float32")
        self.act_scale = emit.argument("act_scale", (1,), "float32")
        if spec.weight is Encoding.INT8:
            self.w = emit.argument("w", (spec.n, spec.k), "int8")
        else:
            self.w = emit.argument("w", interleaved_shape(spec.n, spec.k, spec.weight, spec.isa), "uint64")
        self.w_scale = emit.argument("w_scale", (spec.n,), "float32")
        self.bias: Buffer | None = emit.argument("bias", (spec.n,), "float32") if spec.has_bias else None
        self.y = emit.argument("y", (self.rows, spec.n), "float32")

    def body(self) -> None:
        """Loop over chunks of rows: pack the chunk once, then stream every weight block past it.

        Threads share the columns of a chunk. Where rows are packed as tables, each takes chunks of its own if
        there are enough: tables that another core has written take long to read.
        """
        scale = emit.let(self.act_scale[0])
        chosen = self.spec.strategy
        gemv, gemm = IMPLEMENTATIONS[chosen.gemv], IMPLEMENTATIONS[chosen.gemm]

        def chunk(first: Expr, count: Expr) -> None:
            emit.branch(
                count >= chosen.gemm_from if gemm is not gemv else True,
                lambda: self.multiply(gemm(self.spec, scale), first, count),
                lambda: self.multiply(gemv(self.spec, scale), first, count),
            )

        def own_chunk(first: Expr, count: Expr) -> None:
            self.multiply(gemm(self.spec, scale), first, count, in_thread=True)

        least = max(_LEAST_CHUNKS * gemm.chunk_rows, -(-_PARALLEL_MACS // (self.spec.n * self.spec.k)))
        emit.branch(
            self.rows >= least if gemm.packs_tables else False,
            lambda: parallel_chunks(self.rows, gemm.chunk_rows, own_chunk),
            lambda: chunks(self.rows, gemm.chunk_rows, chunk),
        )

    def multiply(self, product: ChunkProduct, first: Expr, count: Expr, in_thread: bool = False) -> None:
        """Pack a chunk of rows and multiply it with every weight block, in parallel if it pays off.

        Args:
            product: the kernel.
            first: the chunk's first row in x and y.
            count: number of rows in the chunk.
            in_thread: whether threads have a chunk each, and this is one of theirs.
        """
        spec = self.spec
        rotated = emit.scratch("rotated", (spec.k,), "float32") if spec.hadamard else None
        with emit.loop("row", count) as row:
            product.pack(row, self.loader(first + row, rotated))
        blocks, rest = divmod(spec.n, spec.isa.block)
        blocks_per_task = product.blocks_per_task

        def task(index: Expr) -> None:
            block = index * blocks_per_task
            product.multiply(count, self.w, block, blocks_per_task, self.epilogue_at(first, block, True))

        tasks = blocks // blocks_per_task
        ops = blocks * spec.isa.block * words_for(spec.k) * product.ops_per_word
        if in_thread:
            with emit.loop("index", tasks) as index:
                task(index)
        else:
            parallel_columns(count, CHUNK_ROWS, tasks, ops, task)
        if spec.layout is Layout.QUARTERS:  # the tail blocks are stored as one group
            tail = blocks + bool(rest) - tasks * blocks_per_task
            if tail:
                block = T.int64(tasks * blocks_per_task)
                product.multiply(count, self.w, block, tail, self.epilogue_at(first, block, rest == 0))
            return
        with emit.loop("block", blocks % blocks_per_task) as index:
            block = blocks // blocks_per_task * blocks_per_task + index
            product.multiply(count, self.w, block, 1, self.epilogue_at(first, block, True))
        if rest:
            product.multiply(
                count, self.w, T.int64(blocks), 1, self.epilogue_at(first, T.int64(blocks), False)
            )

    def loader(self, m: Expr, rotated: Buffer | None) -> emit.Load:
        """The loader of row m of x, or of its rotation, which is stored in `rotated` first."""
        load = row_of(self.x, m)
        if rotated is None or self.spec.hadamard is None:
            return load
        rotate_row(load, HadamardSpec(self.spec.k, self.spec.hadamard, self.spec.isa), rotated)
        return row_of(rotated)

    def epilogue_at(self, first: Expr, block: Expr, whole: bool) -> Epilogue:
        """The epilogue for a chunk of rows and some weight blocks.

        Args:
            first: the chunk's first row in y.
            block: index of the first block.
            whole: whether all columns of the blocks exist.

        Returns:
            An epilogue that maps chunk rows and block columns to rows and columns of y.
        """
        start = block * self.spec.isa.block
        return lambda row, offset, lanes, total, scale: self.epilogue(
            first + row, start + offset, lanes, total, scale, whole
        )

    def epilogue(self, m: Expr, n: Expr, lanes: int, total: Expr, scale: Expr, whole: bool) -> None:
        """Scale a vector of sums, add the bias, apply the activation and store the columns that exist.

        Args:
            m: row of y.
            n: first column of y.
            lanes: lanes of the vector.
            total: the sums, int32, a vector of `lanes`.
            scale: scale of the row, float32.
            whole: whether all columns exist.
        """
        size = self.spec.n
        store_partial(
            True if whole else n + lanes <= size,
            lanes,
            size - n,
            total,
            lambda values: emit.store(self.y, self.scaled(values, scale, n, lanes), m, n, lanes=lanes),
            lambda lane, value: emit.store(self.y, self.scaled(value, scale, n + lane, 1), m, n + lane),
        )

    def scaled(self, total: Expr, scale: Expr, n: Expr, lanes: int) -> Expr:
        """Convert sums to outputs.

        Args:
            total: the sums, int32, a vector of `lanes`.
            scale: scale of the row, float32.
            n: first column of y.
            lanes: lanes of the vector.

        Returns:
            The outputs, float32, a vector of `lanes`.
        """
        weight = emit.load(self.w_scale, n, lanes=lanes)
        y = emit.cast(total, "float32", lanes) * (emit.splat(scale, lanes) * weight)
        if self.bias is not None:
            y = y + emit.load(self.bias, n, lanes=lanes)
        return ACTIVATIONS[self.spec.function](emit.let(y), lanes) if self.spec.function else y
