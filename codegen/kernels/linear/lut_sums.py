"""8-bit activations times 1 or 2 bit weights by table look-up, for AArch64 CPUs without byte dot products.

Four neighbouring activations have 16 sums of some of them, and four bits of a weight plane say which. So a
table of 16 bytes gives four products at once, and one TBL looks up in two such tables:

    load     `Layout.QUARTERS`: a vector has the same two bytes of 8 columns. The even bytes belong to other
             activations than the odd ones, so each have a table. Weights that read the same tables lie
             side by side, so that one instruction loads two vectors.
    number   SRI or BIT puts four bits of every byte under bits that stay and say whether it is an odd byte.
    look up  TBL, in 32 bytes: the table of the even bytes and that of the odd ones.
    add      UADALP adds the two bytes of each column to its sum in 16 bits.

A table counts from its smallest sum, so that its entries go from 0 to sum |x|, which is mostly below 256.
Where it is not, the vector is multiplied in two steps or four, each with a part of the activations.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dot.byte_rows import ByteRows
from tbt_compile.codegen.kernels.dot.lut_tables import COLUMNS, byte_splat, lane_numbers
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dot.weight_planes import quarter_start, quarter_words
from tbt_compile.codegen.kernels.dsl import emit, neon
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.layouts import quarter_group, words_for
from tbt_compile.codegen.target.isa import WORD_BITS
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

VectorOf = Callable[[Expr], Expr]
"""`vector_of(step)`: the vector of weights that a step multiplies."""

_GROUP = 4  # activations of a table
VECTOR = 16
"""Activations of a vector of weights."""
_VECTORS = WORD_BITS // VECTOR
_TABLES = VECTOR // _GROUP
_LARGEST = 255
STEPS_BEFORE_WIDENING = 64
"""Steps until sums in 16 bits must be widened: the two look-ups of a step add at most 2 * 2 * 255."""


class LutSums:
    """A chunk of rows as tables of sums, and its products with weight blocks."""

    chunk_rows = 8  # their tables fit the second-level cache
    ops_per_word = 4

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.blocks_per_task = quarter_group(spec.weight.planes)
        words = words_for(spec.k)
        self.vectors = words * _VECTORS
        padding = words * WORD_BITS - spec.k
        self.rows = ByteRows(spec.activation, spec.isa, spec.k, self.chunk_rows, padding)
        # Two codes of 7 bits and a sign always fit a table, of 8 bits only one.
        self.max_parts = 2 if spec.activation is Encoding.INT8 else _GROUP
        max_steps = self.vectors * self.max_parts
        self.base = emit.scratch("known", (self.chunk_rows,), "int32")
        # Of every vector the first step, in their order, and behind those the further ones.
        self.steps = emit.scratch("steps", (self.chunk_rows,), "int64")
        self.vector_of = emit.scratch("vector_of", (self.chunk_rows, max_steps), "int64")
        self.selected = emit.scratch("mine", (_GROUP,), "uint8")
        self.tables = emit.scratch("tables", (self.chunk_rows, max_steps, _TABLES * COLUMNS), "uint8")

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantizes one row and fills its tables."""
        self.rows.pack(row, load)
        magnitudes = emit.Register("magnitudes", "int32", 1, T.int32(0))
        steps = emit.Register("step", "int64", 1, T.int64(self.vectors))
        with emit.loop("vector", self.vectors) as vector:
            sizes = self._magnitudes(row, vector * VECTOR, VECTOR)
            pairs = _pair_sums(emit.cast(sizes, "uint16", VECTOR), VECTOR)
            groups = _pair_sums(pairs, VECTOR // 2)
            magnitudes.add(T.cast(emit.reduce_lanes(groups, _TABLES, lambda a, b: a + b), "int32"))
            parts = self._parts(_largest(pairs, VECTOR // 2), _largest(groups, _TABLES))
            with emit.loop("part", parts.get()) as part:
                first = emit.let(part == 0)
                step = emit.let(T.Select(first, T.cast(vector, "int64"), steps.get()))
                emit.store(self.vector_of, vector, row, step)
                for index in range(_GROUP):
                    selected = T.int64(index) * parts.get() // _GROUP == part
                    emit.store(self.selected, T.Select(selected, T.uint8(_LARGEST), T.uint8(0)), index)
                self._fill(row, vector, step)
                steps.add(T.Select(first, T.int64(0), T.int64(1)))
        emit.store(self.steps, steps.get(), row)
        base = magnitudes.get()
        if self.spec.weight is Encoding.TERNARY:  # the sum of a row's negative activations
            base = (base - self.rows.total(row)) >> T.int32(1)
        emit.store(self.base, base, row)

    def _parts(self, largest_pair: Expr, largest_group: Expr) -> emit.Register:
        """Steps for a vector, so that every sum fits a byte."""
        most = T.uint16(_LARGEST)
        two = T.int64(2)
        some = two if self.max_parts == 2 else T.Select(largest_pair <= most, two, T.int64(_GROUP))
        return emit.Register("parts", "int64", 1, T.Select(largest_group <= most, T.int64(1), some))

    def _fill(self, row: Expr, vector: Expr, step: Expr) -> None:
        """The tables of a vector, with the `selected` activations of each group.

        They are in the order in which they are used: for both bytes the lower four bits, then the upper ones.
        A weight bit adds a positive activation, and takes a negative one away.
        """
        with emit.loop("upper", 2) as upper, emit.loop("odd", 2) as odd:
            first = emit.let(vector * VECTOR + odd * 8 + upper * _GROUP)
            chosen = emit.let(T.reinterpret(neon.OCTETS, lane_numbers()))
            table: Expr = byte_splat(0)
            for index in range(_GROUP):
                size = emit.let(self._magnitudes(row, first + index, 1) & self.selected[index])
                bit: Expr = T.uint8(1 << index)
                if self.spec.activation is Encoding.INT8:
                    bit = T.Select(self.rows.codes[row, first + index] < T.int8(0), T.uint8(0), bit)
                adds = (chosen & byte_splat(1 << index)) == emit.splat(bit, COLUMNS)
                table = table + T.Select(adds, emit.splat(size, COLUMNS), byte_splat(0))
            emit.store(self.tables, table, row, step, (upper * 2 + odd) * COLUMNS, lanes=COLUMNS)

    def _magnitudes(self, row: Expr, k: Expr, lanes: int) -> Expr:
        codes = emit.load(self.rows.codes, row, k, lanes=lanes)
        if self.spec.activation is Encoding.UINT8:
            return emit.let(codes)
        return emit.let(T.reinterpret(emit.vector("uint8", lanes), T.abs(codes)))

    def multiply(self, count: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """As `ChunkProduct` says; the blocks are a group of `Layout.QUARTERS`."""

        def several() -> None:
            with emit.loop("row", count) as row:
                self._multiply_row(row, w, block, blocks, epilogue)

        # In a loop of several rows LLVM would load what `epilogue` reads before it, and spill it.
        emit.branch(count == 1, lambda: self._multiply_row(T.int64(0), w, block, blocks, epilogue), several)

    def _multiply_row(self, row: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """The first step of every vector one after the other, then those that `vector_of` tells."""
        lanes, planes = self.spec.isa.block, self.spec.weight.planes
        pieces = blocks * planes
        zero, empty = emit.splat(T.int32(0), lanes), emit.splat(T.uint16(0), lanes)
        totals = [emit.Register("total", "int32", lanes, zero) for _ in range(pieces)]
        odd = emit.splat(T.uint64(0x1000100010001000), 2)
        indices = emit.Register("numbers", "uint8", COLUMNS, T.reinterpret(neon.OCTETS, odd))
        weights, start = quarter_words(w), emit.let(quarter_start(w, block))

        def add_up(
            sums: list[emit.Register], first: Expr | int, length: Expr | int, vector_of: VectorOf
        ) -> None:
            """The steps from `first` on."""
            with emit.loop("step", length) as index:
                step = emit.let(first + index)
                vector = emit.let(start + vector_of(step) * (pieces * 2))
                tables = [
                    emit.let(emit.load(self.tables, row, step, table * COLUMNS, lanes=COLUMNS))
                    for table in range(_TABLES)
                ]
                for piece, total in enumerate(sums):
                    words = emit.load(weights, vector + piece * 2, lanes=2)
                    self._add_lookups(emit.let(T.reinterpret(neon.OCTETS, words)), tables, indices, total)

        def run(*parts: tuple[Expr | int, Expr | int, VectorOf]) -> None:
            """At most `STEPS_BEFORE_WIDENING` steps."""
            sums = [emit.Register("sums", "uint16", lanes, empty) for _ in range(pieces)]
            for part in parts:
                add_up(sums, *part)
            for total, added in zip(totals, sums, strict=True):
                total.add(emit.cast(added.get(), "int32", lanes))

        def further(step: Expr) -> Expr:
            return self.vector_of[row, step]

        steps = emit.let(self.steps[row])
        whole = (self.vectors - 1) // STEPS_BEFORE_WIDENING * STEPS_BEFORE_WIDENING
        for first in range(0, whole, STEPS_BEFORE_WIDENING):
            run((first, STEPS_BEFORE_WIDENING, lambda step: step))
        start_of_rest = emit.let(T.min(steps, T.int64(whole + STEPS_BEFORE_WIDENING)))
        run(
            (whole, self.vectors - whole, lambda step: step),
            (self.vectors, start_of_rest - self.vectors, further),
        )
        with emit.loop("run", T.ceildiv(steps - start_of_rest, STEPS_BEFORE_WIDENING)) as index:
            next_step = emit.let(start_of_rest + index * STEPS_BEFORE_WIDENING)
            run((next_step, T.min(T.int64(STEPS_BEFORE_WIDENING), steps - next_step), further))
        scale, base = emit.let(self.rows.scales[row]), emit.splat(emit.let(self.base[row]), lanes)
        for part in range(blocks):
            *positive, negative = (total.get() for total in totals[part * planes : (part + 1) * planes])
            total = base - negative * emit.splat(T.int32(2), lanes)
            for other in positive:
                total = total + other
            epilogue(row, T.int64(part * lanes), lanes, emit.let(total), scale)

    @staticmethod
    def _add_lookups(octets: Expr, tables: list[Expr], indices: emit.Register, total: emit.Register) -> None:
        """Adds what the upper and the lower four bits of every byte select.

        Of `indices` only the lower half of every byte is replaced. The upper one says that odd bytes look up
        16 entries further on.
        """
        indices.set(neon.shift_insert(indices.get(), octets))
        total.add(neon.pair_sums(neon.table_lookup(tables[2], tables[3], indices.get())))
        lower = emit.let((octets & byte_splat(0x0F)) | (indices.get() & byte_splat(0xF0)))
        total.add(neon.pair_sums(neon.table_lookup(tables[0], tables[1], lower)))


def _pair_sums(values: Expr, lanes: int) -> Expr:
    values = emit.let(values)
    return emit.let(emit.shuffle(values, range(0, lanes, 2)) + emit.shuffle(values, range(1, lanes, 2)))


def _largest(values: Expr, lanes: int) -> Expr:
    return emit.reduce_lanes(values, lanes, T.max)
