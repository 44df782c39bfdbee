"""Linear layers with 8-bit weights and 8-bit activations: a plain integer dot product.

    y[m, n] = float(sum_k cx[m, k] * cw[n, k]) * (sx[m] * sw[n]) + bias[n]

The activations' scale is found per row; the weights' is stored per output row.
"""

from __future__ import annotations

from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.kernels.byterows import ByteRows
from tbt_compile.codegen.kernels.linear_spec import LinearSpec
from tbt_compile.codegen.kernels.loops import chunks, row_of, share_columns
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, T

_CHUNK_ROWS = 32
_COST = 8


def linear_int8(spec: LinearSpec) -> PrimFunc:
    """A linear layer over M rows with INT8 weights.

    Arguments:
        x: float32 [M, K]
        act_scale: float32 [1], not read
        w: int8 [N, K]
        w_scale: float32 [N]
        bias: float32 [N], only if `has_bias`
        y: float32 [M, N], the output
    """
    return emit.function("linear_int8", lambda: _linear(spec))


def _linear(spec: LinearSpec) -> None:
    count = emit.symbol("m")
    x = emit.argument("x", (count, spec.k), "float32")
    emit.argument("act_scale", (1,), "float32")
    w = emit.argument("w", (spec.n, spec.k), "int8")
    w_scale = emit.argument("w_scale", (spec.n,), "float32")
    bias = emit.argument("bias", (spec.n,), "float32") if spec.has_bias else None
    y = emit.argument("y", (count, spec.n), "float32")
    rows = ByteRows(spec.activation, spec.isa, spec.k, _CHUNK_ROWS)

    def chunk(first: Expr, size: Expr) -> None:
        with emit.loop("row", size) as row:
            rows.pack(row, row_of(x, first + row))

        def column(n: Expr) -> None:
            scale = emit.let(w_scale[n])
            with emit.loop("row", size) as row:
                total = rows.dot(
                    row, lambda k, lanes: emit.cast(emit.load(w, n, k, lanes=lanes), "int32", lanes)
                )
                value = T.cast(total, "float32") * (rows.scales[row] * scale)
                emit.store(y, value if bias is None else value + bias[n], first + row, n)

        share_columns(size, _CHUNK_ROWS, spec.n, _COST * spec.n * spec.k // 64, column)

    chunks(count, _CHUNK_ROWS, chunk)
