"""Embedding lookup from packed weights: y[m, :] = codes[ids[m], :] * scale[ids[m]].

The kernel reads the weight layouts of `linear`: an embedding tied to the output projection is stored once.
"""

from __future__ import annotations

from tbt_compile.codegen.kernels.dot.stored_rows import StoredRows, StoredSpec
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import copy_row
from tbt_compile.codegen.tvm_api import PrimFunc, T

_LANES = 16


def embedding(spec: StoredSpec) -> PrimFunc:
    """Look up M rows of a table, M symbolic.

    Arguments:
        ids: int64 [M], clipped to [0, N) to avoid reads out of bounds
        w, w_scale: see `StoredRows`
        y: float32 [M, K], the output
    """
    return emit.function("embedding", lambda: _embedding(spec))


def _embedding(spec: StoredSpec) -> None:
    count = emit.symbol("m")
    ids = emit.argument("ids", (count,), "int64")
    table = StoredRows(spec)
    y = emit.argument("y", (count, spec.k), "float32")
    with emit.loop("m", count) as m:
        row = table.row(emit.let(T.min(T.max(ids[m], T.int64(0)), T.int64(spec.n - 1))))
        copy_row(row, spec.k, _LANES, y, m)
