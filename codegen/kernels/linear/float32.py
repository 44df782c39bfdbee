"""Linear layers that stay in full precision, with float32 weights [N, K] as stored.

Element k of a row is always summed in the same lane: the result of a row does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import parallel_columns
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, T

COLUMNS = 4
"""Output columns per block; their weights stay in the L1 cache from one row to the next."""
VECTORS = 4
"""Vectors of inputs per step. With 4 columns there are 16 accumulators: enough to hide the add latency."""
_MAX_ROWS = 1 << 20


@dataclass(frozen=True)
class FloatLinearSpec:
    """A linear layer in float32.

    Attributes:
        n: output features.
        k: input features.
        has_bias: whether there is a bias argument.
        isa: instruction set to schedule for.
    """

    n: int
    k: int
    has_bias: bool
    isa: Isa


def linear_float(spec: FloatLinearSpec) -> PrimFunc:
    """y = x @ w.T + bias for M rows, M symbolic.

    Arguments:
        x: float32 [M, K]
        w: float32 [N, K]
        bias: float32 [N], only if `spec.has_bias`
        y: float32 [M, N], the output
    """
    return emit.function("linear_float", lambda: _Product(spec).body())


class _Product:
    """The arguments of the kernel, and the loops over them."""

    def __init__(self, spec: FloatLinearSpec) -> None:
        self.spec, self.rows = spec, emit.symbol("m")
        self.x = emit.argument("x", (self.rows, spec.k), "float32")
        self.w = emit.argument("w", (spec.n, spec.k), "float32")
        self.bias = emit.argument("bias", (spec.n,), "float32") if spec.has_bias else None
        self.y = emit.argument("y", (self.rows, spec.n), "float32")

    def body(self) -> None:
        """Blocks of columns, in parallel if it pays off, then the tail columns."""
        blocks, rest = divmod(self.spec.n, COLUMNS)
        if blocks:
            work = self.spec.n * self.spec.k // 2
            parallel_columns(
                self.rows, _MAX_ROWS, blocks, work, lambda block: self._block(block * COLUMNS, COLUMNS)
            )
        if rest:
            self._block(T.int64(blocks * COLUMNS), rest)

    def _block(self, first: Expr, columns: int) -> None:
        with emit.loop("row", self.rows) as row:
            self._dots(row, first, columns)

    def _dots(self, row: Expr, first: Expr, columns: int) -> None:
        """Dot products of one row with adjacent columns: full steps, then the scalar tail."""
        lanes, length = self.spec.isa.float_lanes, self.spec.k
        step = VECTORS * lanes
        zero = emit.constant(0.0, "float32", lanes)
        sums = [
            [emit.Register("sum", "float32", lanes, zero) for _ in range(VECTORS)] for _ in range(columns)
        ]
        with emit.loop("step", length // step) as k:
            for v in range(VECTORS):
                values = emit.let(emit.load(self.x, row, k * step + v * lanes, lanes=lanes))
                for c in range(columns):
                    sums[c][v].add(values * emit.load(self.w, first + c, k * step + v * lanes, lanes=lanes))
        for c in range(columns):
            first_half, second_half = (sums[c][v].get() + sums[c][v + 1].get() for v in (0, 2))
            total = emit.Register("total", "float32")
            total.set(emit.reduce_lanes(first_half + second_half, lanes, add))
            with emit.loop("rest", length // step * step, length) as k:
                total.add(self.x[row, k] * self.w[first + c, k])
            value = total.get() if self.bias is None else total.get() + self.bias[first + c]
            emit.store(self.y, value, row, first + c)
