"""Linear layers of 8-bit activations and 1 or 2 bit weights by LUT, for x86 CPUs without VNNI.

A step multiplies one byte of a weight plane of every column with the tables of `dot/sum_tables.py`:

    load     `Layout.OCTETS`: a vector has the same byte of the 32 columns of a block.
    index    an AND, or a shift and an AND, for the low and the high nibble of every byte; done once for all
             rows of a chunk.
    look up  VPSHUFB, in the same 16 bytes for all columns.
    add      both lookups as bytes where that fits, see `dot/paired_tables.py`. Then the bytes as 16-bit lanes
             to one sum, and the high byte of every lane (VPMADDUBSW with 0 and 1) to another: the sums of the
             odd columns, and what they added to those of the even ones.

A paired step takes 6 instructions for 256 products, and 3 for the indices; with unpacked weights they take 8
VPMADDUBSW and 8 additions.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dot.lut_tables import COLUMNS, byte_splat
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dot.paired_tables import RUN, PairedTables
from tbt_compile.codegen.kernels.dot.weight_planes import flat, words_per_block
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.x86 import byte_shuffle, multiply_bytes
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

BLOCK = 32
"""Columns of a block, and bytes of a vector: those of AVX2, with AVX-512 too."""
UNPACK_FROM = 3
"""The number of rows from which the indices of a run are stored."""
_HALF = BLOCK // 2
_WORDS = BLOCK // 8

Indices = Callable[[Expr, int], tuple[Expr, Expr]]
"""`indices(vector, plane)`: the low and the high nibbles of a weight vector, uint8."""


class ShuffleSums:
    """A chunk of rows as tables of subset sums, and its products with weight blocks; a `ChunkProduct`."""

    chunk_rows = 8  # their tables fit the L2 cache
    blocks_per_task = 1

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.ops_per_word = 6 * spec.weight.planes
        self.tables = PairedTables(spec, self.chunk_rows)
        self.pack = self.tables.pack

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, P, 32], in `Layout.OCTETS`.
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        packed = _PackedIndices(w, block)
        emit.branch(
            count < UNPACK_FROM,
            lambda: self._few(count, packed, epilogue),
            lambda: self._many(count, packed, epilogue),
        )

    def _few(self, count: Expr, packed: _PackedIndices, epilogue: Epilogue) -> None:
        """Row by row, all runs of a row."""
        with emit.loop("row", count) as row:
            totals = _Totals(self.spec.weight.planes)
            with emit.loop("run", self.tables.run_count) as run:
                self._add_run(row, run, packed, totals, packed.prefetch)
            self._end(row, totals, packed, epilogue)

    def _many(self, count: Expr, packed: _PackedIndices, epilogue: Epilogue) -> None:
        """Run by run, all rows of a run, which share its unpacked indices."""
        planes = self.spec.weight.planes
        kept = emit.scratch("totals", (self.chunk_rows, planes * BLOCK), "int32")
        unpacked = emit.scratch("indices", (RUN, planes * 2 * BLOCK), "uint8")
        with emit.loop("row", count) as row:
            _Totals(planes).save(kept, row)
        with emit.loop("run", self.tables.run_count) as run:
            first = emit.let(run * RUN)
            with emit.loop("vector", self.tables.end(run) - first) as index:
                for plane in range(planes):
                    for high, nibbles in enumerate(packed(first + index, plane)):
                        emit.store(unpacked, nibbles, index, (plane * 2 + high) * BLOCK, lanes=BLOCK)

            def indices(vector: Expr, plane: int, first: Expr = first) -> tuple[Expr, Expr]:
                at = emit.let(vector - first)
                low, high = (
                    emit.load(unpacked, at, (plane * 2 + half) * BLOCK, lanes=BLOCK) for half in range(2)
                )
                return low, high

            with emit.loop("row", count) as row:
                totals = _Totals(planes, kept, row)
                self._add_run(row, run, indices, totals)
                totals.save(kept, row)
        with emit.loop("row", count) as row:
            self._end(row, _Totals(planes, kept, row), packed, epilogue)

    def _add_run(
        self,
        row: Expr,
        run: Expr,
        indices: Indices,
        totals: _Totals,
        at_step: Callable[[Expr], None] = lambda _: None,
    ) -> None:
        """Add the steps of one run; `at_step` emits what else every step does."""
        first, end = emit.let(run * RUN), emit.let(self.tables.end(run))
        single = emit.let(first + self.tables.paired[row, run])
        sums = [_Sums() for _ in range(self.spec.weight.planes)]
        for start, stop, paired in ((first, single, True), (single, end, False)):
            with emit.loop("step", stop - start) as index:
                step = emit.let(start + index)
                at_step(step)
                self._add_step(row, step, indices, sums, paired=paired)
        totals.add(sums)

    def _add_step(self, row: Expr, step: Expr, indices: Indices, sums: list[_Sums], *, paired: bool) -> None:
        """Add the lookups of one step; where `paired`, the two of each plane fit a byte."""
        vector = emit.let(self.tables.vector_of[row, step])
        low, high = (self._table(row, step, table) for table in range(2))
        for plane, added in enumerate(sums):
            lower, upper = indices(vector, plane)
            some, others = byte_shuffle(low, lower, BLOCK), byte_shuffle(high, upper, BLOCK)
            for octets in [some + others] if paired else [some, others]:
                added.add(octets)

    def _end(self, row: Expr, totals: _Totals, packed: Indices, epilogue: Epilogue) -> None:
        """Add the extra steps of a row, and store its dot products."""
        first = T.int64(self.tables.vectors)
        steps = emit.let(self.tables.steps[row])
        with emit.loop("run", T.ceildiv(steps - first, RUN)) as run:
            start = emit.let(first + run * RUN)
            sums = [_Sums() for _ in range(self.spec.weight.planes)]
            with emit.loop("step", T.min(T.int64(RUN), steps - start)) as index:
                self._add_step(row, emit.let(start + index), packed, sums, paired=False)
            totals.add(sums)
        scale, lanes = emit.let(self.tables.rows.scales[row]), self.spec.isa.float_lanes
        even, odd = (self.tables.total(row, totals.of(parity), _HALF) for parity in range(2))
        for column in range(0, BLOCK, lanes):
            places = [T.int32(place // 2 + place % 2 * _HALF) for place in range(column, column + lanes)]
            epilogue(row, T.int64(column), lanes, emit.let(T.Shuffle([even, odd], places)), scale)

    def _table(self, row: Expr, step: Expr, table: int) -> Expr:
        """A table, in both halves of a vector."""
        half = emit.let(emit.load(self.tables.tables, row, step, table * COLUMNS, lanes=COLUMNS))
        return emit.let(emit.concat([half, half], COLUMNS))


class _PackedIndices:
    """The indices of a weight block, unpacked as they are used."""

    def __init__(self, w: Buffer, block: Expr) -> None:
        self._weights = flat(w)
        self._words = w.shape[2].value * _WORDS
        self._start = emit.let(block * words_per_block(w))

    def __call__(self, vector: Expr, plane: int) -> tuple[Expr, Expr]:
        at = emit.let(self._start + vector * self._words + plane * _WORDS)
        octets = emit.let(T.reinterpret(f"uint8x{BLOCK}", emit.load(self._weights, at, lanes=_WORDS)))
        return octets & byte_splat(0x0F, BLOCK), octets >> byte_splat(4, BLOCK)

    def prefetch(self, step: Expr) -> None:
        """Prefetch a weight vector of the next run. The order within a run is not that of memory."""
        emit.prefetch(self._weights, self._start + (step + RUN) * self._words)


class _Sums:
    """16-bit sums of bytes of the 32 columns."""

    def __init__(self) -> None:
        self._whole = _zeros("whole", "uint16")
        self._odd = _zeros("odd", "uint16")

    def add(self, octets: Expr) -> None:
        octets = emit.let(octets)
        self._whole.add(T.reinterpret(f"uint16x{_HALF}", octets))
        self._odd.add(_odd_octets(octets))

    def widened(self) -> tuple[Expr, Expr]:
        """The sums of the even and of the odd columns, int32; the former modulo 2**16 until here."""
        odd = emit.let(self._odd.get())
        even = self._whole.get() - (odd << emit.splat(T.uint16(8), _HALF))
        return emit.cast(even, "int32", _HALF), emit.cast(odd, "int32", _HALF)


class _Totals:
    """32-bit sums of the 32 columns for each weight plane, even and odd columns apart; zero, or as saved."""

    def __init__(self, planes: int, kept: Buffer | None = None, row: Expr | None = None) -> None:
        self._registers = [[_zeros("total", "int32") for _ in range(2)] for _ in range(planes)]
        if kept is not None:
            for place, register in self._places():
                register.set(emit.load(kept, row, place, lanes=_HALF))

    def add(self, sums: list[_Sums]) -> None:
        for registers, added in zip(self._registers, sums, strict=True):
            for register, half in zip(registers, added.widened(), strict=True):
                register.add(half)

    def of(self, parity: int) -> list[Expr]:
        """The sums of the even or odd columns, of each plane."""
        return [registers[parity].get() for registers in self._registers]

    def save(self, kept: Buffer, row: Expr) -> None:
        for place, register in self._places():
            emit.store(kept, register.get(), row, place, lanes=_HALF)

    def _places(self) -> list[tuple[int, emit.Register]]:
        flat_registers = [register for registers in self._registers for register in registers]
        return [(index * _HALF, register) for index, register in enumerate(flat_registers)]


def _zeros(name: str, dtype: str) -> emit.Register:
    return emit.Register(name, dtype, _HALF, emit.splat(T.cast(0, dtype), _HALF))


def _odd_octets(octets: Expr) -> Expr:
    """The odd bytes as 16-bit lanes. Shifts use the ports of the shuffles on Zen; VPMADDUBSW does not."""
    ones = T.reinterpret(f"int8x{BLOCK}", emit.splat(T.int16(0x0100), _HALF))
    return T.reinterpret(f"uint16x{_HALF}", multiply_bytes(octets, ones, BLOCK))
