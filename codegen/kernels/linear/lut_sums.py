"""Linear layers of 8-bit activations and 1 or 2 bit weights by LUT, for AArch64 without byte dot products.

Four adjacent activations have 16 subset sums, and four bits of a weight plane select one. A table of 16 bytes
thus gives four products at once, and one TBL reads two such tables:

    load     `Layout.QUARTERS`: a vector has the same two bytes of 8 columns. Even and odd bytes multiply
             different activations, so each has a table. Weights that use the same tables are adjacent: one
             instruction loads two vectors.
    index    SRI or BIT inserts four weight bits below constant bits that tell odd bytes from even ones.
    look up  TBL, in 32 bytes: the table of the even bytes, then the table of the odd bytes.
    add      UADALP adds the two bytes of each column to its 16-bit sum.

Table entries are offset by the smallest sum. They range from 0 to sum |x|, usually below 256. Otherwise the
vector is multiplied in two or four steps, each with a part of the activations.
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
"""`vector_of(step)`: the index of the weight vector that a step multiplies."""

_GROUP = 4  # activations per table
VECTOR = 16
"""Activations per weight vector."""
_VECTORS = WORD_BITS // VECTOR
_TABLES = VECTOR // _GROUP
_LARGEST = 255
STEPS_BEFORE_WIDENING = 64
"""Steps before 16-bit sums must be widened: the two lookups of a step add at most 2 * 2 * 255."""


class LutSums:
    """A chunk of rows as tables of subset sums, and its products with weight blocks; a `ChunkProduct`."""

    chunk_rows = 8  # their tables fit the L2 cache
    ops_per_word = 4

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.blocks_per_task = quarter_group(spec.weight.planes)
        words = words_for(spec.k)
        self.vectors = words * _VECTORS
        padding = words * WORD_BITS - spec.k
        self.rows = ByteRows(spec.activation, spec.isa, spec.k, self.chunk_rows, padding)
        # The sum of two INT8 magnitudes always fits a byte; for UINT8, only a single code does.
        self.max_parts = 2 if spec.activation is Encoding.INT8 else _GROUP
        max_steps = self.vectors * self.max_parts
        self.base = emit.scratch("known", (self.chunk_rows,), "int32")
        # Steps: the first step of every vector in order, then the extra steps.
        self.steps = emit.scratch("steps", (self.chunk_rows,), "int64")
        self.vector_of = emit.scratch("vector_of", (self.chunk_rows, max_steps), "int64")
        self.selected = emit.scratch("mine", (_GROUP,), "uint8")
        self.tables = emit.scratch("tables", (self.chunk_rows, max_steps, _TABLES * COLUMNS), "uint8")

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row and fill its tables."""
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
        if self.spec.weight is Encoding.TERNARY:  # the magnitude sum of the negative activations
            base = (base - self.rows.total(row)) >> T.int32(1)
        emit.store(self.base, base, row)

    def _parts(self, largest_pair: Expr, largest_group: Expr) -> emit.Register:
        """The number of steps of a vector: 1, 2 or 4, the fewest with sums that fit a byte."""
        limit = T.uint16(_LARGEST)
        two = T.int64(2)
        several = two if self.max_parts == 2 else T.Select(largest_pair <= limit, two, T.int64(_GROUP))
        return emit.Register("parts", "int64", 1, T.Select(largest_group <= limit, T.int64(1), several))

    def _fill(self, row: Expr, vector: Expr, step: Expr) -> None:
        """Fill the tables of a vector from the `selected` activations of each group.

        Tables are in order of use: low nibbles of even and odd bytes, then high nibbles. A weight bit adds a
        positive activation and subtracts a negative one.
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
        """Multiply packed rows with weight blocks; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, P, columns], in `Layout.QUARTERS`.
            block: index of the first block.
            blocks: number of blocks, a group of the layout.
            epilogue: consumes the dot products.
        """

        def several() -> None:
            with emit.loop("row", count) as row:
                self._multiply_row(row, w, block, blocks, epilogue)

        # In a loop over rows LLVM would hoist the loads of `epilogue` out of the loop and spill them.
        emit.branch(count == 1, lambda: self._multiply_row(T.int64(0), w, block, blocks, epilogue), several)

    def _multiply_row(self, row: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """Multiply one row: the first step of every vector in order, then the extra steps by `vector_of`."""
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
            """Add the products of `length` steps from `first` on."""
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
            """Add up to `STEPS_BEFORE_WIDENING` steps in 16 bits, then widen."""
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
        """Add the table entries that the high and the low nibble of every byte select.

        Only the low nibbles of `indices` are replaced; the high nibbles offset odd bytes by 16 entries.
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
