"""Sums and means of float32 rows, in the order of `dsl.sums`."""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dot.quantize import mean_of_row
from tbt_compile.codegen.kernels.dsl import emit, sums
from tbt_compile.codegen.kernels.dsl.loops import parallel_rows, row_of
from tbt_compile.codegen.kernels.float_ops.spec import AnySize
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc


def row_sum(spec: AnySize) -> PrimFunc:
    """The sums of M rows, M and K symbolic.

    Arguments:
        x: float32 [M, K]
        y: float32 [M], the output
    """
    return _each_row(spec, lambda x, m, length: sums.total(row_of(x, m), length))


def row_mean(spec: AnySize) -> PrimFunc:
    """The means of M rows, summed in float64: what activation quantizers subtract.

    Arguments: as `row_sum`.
    """
    return _each_row(spec, lambda x, m, length: mean_of_row(row_of(x, m), length))


def _each_row(_spec: AnySize, reduce: Callable[[Buffer, Expr, Expr], Expr]) -> PrimFunc:
    def body() -> None:
        rows, length = emit.symbol("m"), emit.symbol("k")
        x = emit.argument("x", (rows, length), "float32")
        y = emit.argument("y", (rows,), "float32")
        parallel_rows(rows, rows * length, lambda m: emit.store(y, reduce(x, m, length), m))

    return emit.function("reduce_rows", body)
