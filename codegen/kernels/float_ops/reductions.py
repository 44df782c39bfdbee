"""Sums and means of float32 rows, in the order of `dsl.sums`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tbt_compile.codegen.kernels.dot.quantize import mean_of_row
from tbt_compile.codegen.kernels.dsl import emit, sums
from tbt_compile.codegen.kernels.dsl.loops import parallel_rows, row_of
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc


@dataclass(frozen=True)
class RowSpec:
    """A reduction of each row.

    Attributes:
        isa: instruction set to schedule for.
    """

    isa: Isa


def row_sum(spec: RowSpec) -> PrimFunc:
    """The sums of M rows, M and K symbolic.

    Arguments:
        x: float32 [M, K]
        y: float32 [M], the output
    """
    return _each_row(spec, lambda x, m, length: sums.total(row_of(x, m), length))


def row_mean(spec: RowSpec) -> PrimFunc:
    """The means of M rows, summed in float64: what activation quantizers subtract.

    Arguments: as `row_sum`.
    """
    return _each_row(spec, lambda x, m, length: mean_of_row(row_of(x, m), length))


def _each_row(_spec: RowSpec, reduce: Callable[[Buffer, Expr, Expr], Expr]) -> PrimFunc:
    def body() -> None:
        rows, length = emit.symbol("m"), emit.symbol("k")
        x = emit.argument("x", (rows, length), "float32")
        y = emit.argument("y", (rows,), "float32")
        parallel_rows(rows, rows * length, lambda m: emit.store(y, reduce(x, m, length), m))

    return emit.function("reduce_rows", body)
