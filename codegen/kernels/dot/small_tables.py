"""Rows of 1 or 2 bit activations as LUTs of subset sums; see `dot/sum_tables.py`."""

from __future__ import annotations

from tbt_compile.codegen.kernels.dot.lut_tables import COLUMNS
from tbt_compile.codegen.kernels.dot.quantize import RowFormat, mean_of_row, static_code_bytes
from tbt_compile.codegen.kernels.dot.sum_tables import LARGEST, subset_sums
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import for_lanes
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.layouts import words_for
from tbt_compile.codegen.target.isa import WORD_BITS
from tbt_compile.codegen.tvm_api import Expr, T

SIZE = 8
"""Activations per step: those of one byte of a weight plane."""


class SmallTables:
    """A scratch buffer for the tables of rows; see `SumTables`.

    Attributes:
        vectors: steps per row.
        most_steps: steps whose lookups a byte can sum.
        tables: uint8 [capacity, vectors, 32]; see `load_table`.

    Args:
        spec: the layer.
        scale: the learned scale, float32.
        capacity: number of rows.
    """

    def __init__(self, spec: LinearSpec, scale: Expr, capacity: int) -> None:
        self.spec = spec
        self.scale = scale
        self._length = words_for(spec.k) * WORD_BITS
        self.vectors = self._length // SIZE
        self.most_steps = LARGEST // (SIZE * max(spec.activation.maximum, -spec.activation.minimum))
        self._codes = emit.scratch("codes", (self._length,), "int8")
        self.tables = emit.scratch("tables", (capacity, self.vectors, 2 * COLUMNS), "uint8")

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row and fill its tables."""
        spec = self.spec
        form = RowFormat(spec.activation, spec.isa, spec.center)
        mean = mean_of_row(load, spec.k) if form.centred else None

        def write(k: Expr, lanes: int) -> None:
            codes = static_code_bytes(emit.let(load(k, lanes)), lanes, mean, self.scale, spec.activation)
            emit.store(self._codes, codes, k, lanes=lanes)

        for_lanes(spec.k, spec.isa.float_lanes, write)
        with emit.loop("pad", self._length - spec.k) as pad:
            emit.store(self._codes, T.int8(0), spec.k + pad)
        with emit.loop("vector", self.vectors) as vector:
            codes = emit.let(emit.load(self._codes, vector * SIZE, lanes=SIZE))
            octets = emit.let(T.reinterpret(f"uint8x{SIZE}", codes))
            tables = subset_sums(octets, SIZE, signed=spec.activation.signed)
            emit.store(self.tables, tables, row, vector, 0, lanes=2 * COLUMNS)
