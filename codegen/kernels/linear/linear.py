"""Linear layers: quantize, pack, multiply, scale, add the bias and apply an activation, all in one function.

    y[m, n] = f(float(sum_k cx[m, k] * cw[n, k]) * (sx[m] * sw[n]) + bias[n])

The integer sum is exact. sx is the learned scale, or the row's own one for 8-bit activations. f is an
activation function, applied while the results are in registers, or nothing.
"""

from __future__ import annotations

from typing import Protocol

from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue, store_partial
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import chunks, parallel_columns, row_of
from tbt_compile.codegen.kernels.float_ops.activations import ACTIVATIONS
from tbt_compile.codegen.kernels.linear.int8 import Int8Gemm, Int8Gemv
from tbt_compile.codegen.kernels.linear.lut_gemm import LutGemm
from tbt_compile.codegen.kernels.linear.lut_sums import LutSums
from tbt_compile.codegen.kernels.linear.packed_dot import PackedDot
from tbt_compile.codegen.kernels.linear.popcount_gemm import PopcountGemm
from tbt_compile.codegen.kernels.linear.spec import CHUNK_ROWS, LinearSpec
from tbt_compile.codegen.kernels.linear.unpacked_dot import UnpackedDot
from tbt_compile.codegen.kernels.strategy import Kernel
from tbt_compile.codegen.layouts import Layout, interleaved_shape, words_for
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T
from tbt_compile.encoding import Encoding
from tbt_compile.errors import LoweringError


class ChunkProduct(Protocol):
    """A way to multiply a chunk of rows with weight blocks.

    Attributes:
        chunk_rows: rows that are packed at a time.
        ops_per_word: operations on 64-bit words for a word of weights and a row; it decides about threads.
        blocks_per_task: weight blocks of one `multiply`, and of one iteration of the loop that threads share.
    """

    chunk_rows: int
    ops_per_word: int
    blocks_per_task: int

    def __init__(self, spec: LinearSpec, scale: Expr) -> None:
        """Declares scratch buffers; `scale` is the learned one, float32."""

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantizes and packs row number `row` of the chunk, float32 [K], which `load` reads."""

    def multiply(self, count: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """The products of packed rows with weight blocks.

        Args:
            count: rows, from the first of the chunk on.
            w: all weights, as `linear` takes them.
            block: the first of the blocks.
            blocks: how many there are.
            epilogue: takes the sums; columns count from the first of the blocks.
        """


IMPLEMENTATIONS: dict[Kernel, type[ChunkProduct]] = {
    Kernel.POPCOUNT: PopcountGemm,
    Kernel.CARRY_SAVE: PopcountGemm,
    Kernel.LUT_GEMM: LutGemm,
    Kernel.LUT_SUMS: LutSums,
    Kernel.PACKED_DOT: PackedDot,
    Kernel.UNPACKED_DOT: UnpackedDot,
    Kernel.INT8_GEMV: Int8Gemv,
    Kernel.INT8_GEMM: Int8Gemm,
}
"""What `strategy` names, for linear layers."""


def linear(spec: LinearSpec) -> PrimFunc:
    """A linear layer over M rows, M known at run time.

    Arguments:
        x: float32 [M, K]
        act_scale: float32 [1], the learned scale; not read for 8-bit activations
        w: uint64 [ceil(N / isa.block), ceil(K / 64), P, isa.block] from `layouts.arrange` with
            `spec.layout`; int8 [N, K] if the weights have 8 bits
        w_scale: float32 [N]
        bias: float32 [N], only if `has_bias`
        y: float32 [M, N], the output

    Raises:
        LoweringError: the weights have 8 bits and the activations have not.
    """
    if spec.weight is Encoding.INT8 and not spec.activation.dynamic:
        raise LoweringError(
            f"a linear layer of {spec.activation.name} activations and INT8 weights: "
            "expected 8-bit activations"
        )
    return emit.function("linear", lambda: _Linear(spec).body())


class _Linear:
    """The arguments and scratch buffers that the parts of the kernel share."""

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
        """Rows in chunks: a chunk is packed once, then every weight block is streamed past it."""
        scale = emit.let(self.act_scale[0])
        chosen = self.spec.strategy
        gemv, gemm = IMPLEMENTATIONS[chosen.gemv], IMPLEMENTATIONS[chosen.gemm]

        def chunk(first: Expr, count: Expr) -> None:
            emit.branch(
                count >= chosen.gemm_from if gemm is not gemv else True,
                lambda: self.multiply(gemm(self.spec, scale), first, count),
                lambda: self.multiply(gemv(self.spec, scale), first, count),
            )

        chunks(self.rows, gemm.chunk_rows, chunk)

    def multiply(self, product: ChunkProduct, first: Expr, count: Expr) -> None:
        """Packs a chunk of rows and multiplies it with every weight block, on several threads if it pays."""
        spec = self.spec
        with emit.loop("row", count) as row:
            product.pack(row, row_of(self.x, first + row))
        blocks, rest = divmod(spec.n, spec.isa.block)
        blocks_per_task = product.blocks_per_task

        def task(index: Expr) -> None:
            block = index * blocks_per_task
            product.multiply(count, self.w, block, blocks_per_task, self.epilogue_at(first, block, True))

        tasks = blocks // blocks_per_task
        ops = blocks * spec.isa.block * words_for(spec.k) * product.ops_per_word
        parallel_columns(count, CHUNK_ROWS, tasks, ops, task)
        if spec.layout is Layout.QUARTERS:  # what is left is stored as one group
            left = blocks + bool(rest) - tasks * blocks_per_task
            if left:
                block = T.int64(tasks * blocks_per_task)
                product.multiply(count, self.w, block, left, self.epilogue_at(first, block, rest == 0))
            return
        with emit.loop("block", blocks % blocks_per_task) as index:
            block = blocks // blocks_per_task * blocks_per_task + index
            product.multiply(count, self.w, block, 1, self.epilogue_at(first, block, True))
        if rest:
            product.multiply(
                count, self.w, T.int64(blocks), 1, self.epilogue_at(first, T.int64(blocks), False)
            )

    def epilogue_at(self, first: Expr, block: Expr, whole: bool) -> Epilogue:
        """The epilogue for a chunk of rows and some weight blocks.

        Args:
            first: the chunk's first row in y.
            block: the first of the blocks.
            whole: whether all columns of the blocks exist.
        """
        start = block * self.spec.isa.block
        return lambda row, offset, lanes, total, scale: self.epilogue(
            first + row, start + offset, lanes, total, scale, whole
        )

    def epilogue(self, m: Expr, n: Expr, lanes: int, total: Expr, scale: Expr, whole: bool) -> None:
        """Scales a vector of sums, adds the bias, applies the activation and stores the columns that exist.

        Args:
            m: row of y.
            n: column of y.
            lanes: elements of the vector.
            total: the sums, int32.
            scale: float32, of the row.
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
        """Sums -> outputs: int32 `total` of columns n .. n + lanes - 1 -> float32."""
        weight = emit.load(self.w_scale, n, lanes=lanes)
        y = emit.cast(total, "float32", lanes) * (emit.splat(scale, lanes) * weight)
        if self.bias is not None:
            y = y + emit.load(self.bias, n, lanes=lanes)
        return ACTIVATIONS[self.spec.function](emit.let(y), lanes) if self.spec.function else y
