"""Tables of subset sums in an order that adds two lookups in a byte.

Where the magnitudes of the eight activations of a step add up to a byte, its two lookups are added as bytes
and widened once. The steps of a run, a part of a row, are sorted: those steps first.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dot.sum_tables import LARGEST, Place, SumTables
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.tvm_api import Expr, T
from tbt_compile.encoding import Encoding

WORDS = 4
"""uint64 words of a vector of weight bytes, the unit of `SumTables.stride`."""
RUN = 128
"""Steps per run: signed 16-bit sums hold what paired steps add, at most 255 each."""
SINGLE_RUN = RUN // 2
"""Unpaired steps whose sums 16 bits hold, twice as large."""


class PairedTables(SumTables):
    """Rows of tables for weight vectors of one byte per column; see `SumTables`.

    Attributes:
        run_count: runs per row.
        ternary: whether the planes of the weights are (positive, negative); `base` is then 0.
        paired: int64 [capacity, runs], the number of steps of each run whose lookups are added as bytes.
    """

    def __init__(self, spec: LinearSpec, capacity: int) -> None:
        super().__init__(spec, capacity, octets=1, stride=WORDS * spec.weight.planes)
        self.ternary = spec.weight is Encoding.TERNARY
        self.run_count = -(-self.vectors // RUN)
        self.paired = emit.scratch("paired", (capacity, self.run_count), "int64")

    def total(self, row: Expr, lookups: list[Expr], lanes: int) -> Expr:
        """The dot products of one row.

        Args:
            row: index of the row.
            lookups: int32, one vector: with BINARY the sums of the lookups; with TERNARY those of the
                positive plane less those of the negative one, which are the dot products.
            lanes: lanes of the vector.

        Returns:
            int32, a vector of `lanes`.
        """
        return lookups[0] if self.ternary else super().total(row, lookups, lanes)

    def end(self, run: Expr) -> Expr:
        """The first step after a run."""
        return T.min((run + 1) * RUN, T.int64(self.vectors))

    def _base(self, row: Expr, magnitudes: Expr) -> Expr:
        return T.int32(0) if self.ternary else super()._base(row, magnitudes)

    def _fill_row(self, row: Expr, fill: Callable[[Expr, Place], None]) -> None:
        front = emit.Register("front", "int64")
        back = emit.Register("back", "int64")

        def place(_vector: Expr, size: Expr) -> Expr:
            fits = emit.let(T.cast(size <= T.uint16(LARGEST), "int64"))
            step = emit.let(T.Select(fits != 0, front.get(), back.get() - 1))
            front.add(fits)
            back.add(fits - 1)
            return step

        with emit.loop("run", self.run_count) as run:
            first, end = emit.let(run * RUN), emit.let(self.end(run))
            front.set(first)
            back.set(end)
            with emit.loop("vector", end - first) as index:
                fill(first + index, place)
            emit.store(self.paired, front.get() - first, row, run)
