"""Write rows of a tensor at indices that are known at run time."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import parallel_rows
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, T
from tbt_compile.errors import LoweringError


@dataclass(frozen=True)
class ScatterSpec:
    """How elements are written.

    Attributes:
        reduction: one of `REDUCTIONS`: how an update is combined with what its place holds.
        dtype: of the elements.
        isa: instruction set to schedule for.
    """

    reduction: str
    dtype: str
    isa: Isa


def scatter(spec: ScatterSpec) -> PrimFunc:
    """Copy x, then for p, k, q in order: y[p, index[p, k, q], q] = combine(y[...], updates[p, k, q]).

    All sizes are symbolic. Updates of one place take effect in the order of k.

    Arguments:
        x: [P, N, Q]
        index: int64 [R, K, S] with R <= P and S <= Q; negative ones count from the end, and what is out of
            range then is clipped to avoid writes out of bounds
        updates: [R, K, S]
        y: [P, N, Q], the output

    Raises:
        LoweringError: the reduction is not one of `REDUCTIONS`.
    """
    if spec.reduction not in REDUCTIONS:
        raise LoweringError(f"reduction {spec.reduction!r}: expected one of {', '.join(REDUCTIONS)}")
    return emit.function("scatter", lambda: _scatter(spec))


def _scatter(spec: ScatterSpec) -> None:
    outer, size, inner, rows, count, columns = (emit.symbol(name) for name in ("p", "n", "q", "r", "k", "s"))
    x = emit.argument("x", (outer, size, inner), spec.dtype)
    index = emit.argument("index", (rows, count, columns), "int64")
    updates = emit.argument("updates", (rows, count, columns), spec.dtype)
    y = emit.argument("y", (outer, size, inner), spec.dtype)
    combine = REDUCTIONS[spec.reduction]

    def slab(p: Expr) -> None:
        with emit.loop("row", size) as n, emit.loop("column", inner) as q:
            emit.store(y, emit.load(x, p, n, q), p, n, q)
        updated = T.Select(p < rows, count, T.int64(0))
        with emit.loop("update", updated) as k, emit.loop("column", T.min(columns, inner)) as q:
            given = emit.let(emit.load(index, p, k, q))
            wrapped = emit.let(T.Select(given < 0, given + size, given))
            place = emit.let(T.min(T.max(wrapped, T.int64(0)), size - 1))
            emit.store(y, combine(emit.load(y, p, place, q), emit.load(updates, p, k, q)), p, place, q)

    parallel_rows(outer, outer * (size + count) * inner, slab)


def _is_nan(value: Expr) -> Expr:
    floating = str(value.ty.dtype).startswith("float")
    return T.isnan(value) if floating else T.bool(False)


REDUCTIONS = {
    "update": lambda old, new: new,
    "sum": lambda old, new: old + new,
    "prod": lambda old, new: old * new,
    # The second operand is the result if either is NaN.
    "amax": lambda old, new: T.Select(_is_nan(old), old, T.max(old, new)),
    "amin": lambda old, new: T.Select(_is_nan(old), old, T.min(old, new)),
}
"""How an update is combined with the value at its place; the names are those of `aten::scatter_reduce`."""
