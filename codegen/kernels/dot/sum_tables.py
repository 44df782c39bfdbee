"""Rows of 8-bit activations as LUTs of subset sums, for the kernels that look products up.

Four adjacent activations have 16 subset sums, which fit one byte shuffle, and four bits of a weight plane
select one. Entries are offset by the smallest sum: they range from 0 to sum |x|, usually below 256. Otherwise
the activations are multiplied in two or four steps, each with the tables of a part of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tbt_compile.codegen.kernels.dot.byte_rows import ByteRows
from tbt_compile.codegen.kernels.dot.lut_tables import COLUMNS, lane_numbers
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.layouts import words_for
from tbt_compile.codegen.target.isa import WORD_BITS
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

GROUP = 4
"""Activations per table."""
LARGEST = 255
"""The largest entry of a table."""


Place = Callable[[Expr, Expr], Expr]
"""`place(vector, size)`: the step of a vector whose activations have the sum of magnitudes `size`, uint16."""


@dataclass(frozen=True)
class Steps:
    """Consecutive steps of a row.

    Attributes:
        first: the first one.
        count: their number.
        vector_of: `vector_of(step)`, the index of the weight vector that a step multiplies.
    """

    first: Expr | int
    count: Expr | int
    vector_of: Callable[[Expr], Expr]


class SumTables:
    """A scratch buffer for rows of 8-bit codes and their tables.

    A step multiplies the activations of one weight vector, `8 * octets` of them, with `2 * octets` tables:
    for the low nibbles of each byte of the weights, then for the high nibbles. The first steps are those of
    every vector in order; extra steps follow.

    Attributes:
        rows: the codes.
        vectors: weight vectors per row.
        count: tables per step.
        max_steps: steps that a row may have.
        steps: int64 [capacity], the number of steps of each row.
        vector_of: int64 [capacity, max_steps], the vector of each step, times `stride`.
        tables: uint8 [capacity, max_steps, 16 * count].
        base: int32 [capacity]: what the lookups lack for the dot product, see `total`.

    Args:
        spec: the layer.
        capacity: number of rows.
        octets: bytes of the weight plane of a column that a weight vector holds.
        stride: distance between weight vectors, in the unit of whoever reads `vector_of`.
    """

    def __init__(self, spec: LinearSpec, capacity: int, octets: int, stride: int = 1) -> None:
        self.spec = spec
        self.octets = octets
        self.stride = stride
        self.count = 2 * octets
        self._size = 8 * octets
        words = words_for(spec.k)
        self.vectors = words * WORD_BITS // self._size
        padding = words * WORD_BITS - spec.k
        self.rows = ByteRows(spec.activation, spec.isa, spec.k, capacity, padding)
        # The sum of two INT8 magnitudes always fits a byte; for UINT8, only a single code does.
        self._max_parts = 2 if spec.activation is Encoding.INT8 else GROUP
        self.max_steps = self.vectors * self._max_parts
        self.base = emit.scratch("base", (capacity,), "int32")
        self.steps = emit.scratch("steps", (capacity,), "int64")
        self.vector_of = emit.scratch("vector_of", (capacity, self.max_steps), "int64")
        self.tables = emit.scratch("tables", (capacity, self.max_steps, self.count * COLUMNS), "uint8")
        self._selected = emit.scratch("selected", (GROUP,), "uint8")

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row and fill its tables."""
        self.rows.pack(row, load, self.spec.floor)
        magnitudes = emit.Register("magnitudes", "int32", 1, T.int32(0))
        extra = emit.Register("extra", "int64", 1, T.int64(self.vectors))

        def fill(vector: Expr, place: Place) -> None:
            codes = emit.let(emit.load(self.rows.codes, row, vector * self._size, lanes=self._size))
            pairs = _pair_sums(emit.cast(self._magnitudes(codes), "uint16", self._size), self._size)
            groups = _pair_sums(pairs, self._size // 2)
            size = emit.let(emit.reduce_lanes(groups, self.count, lambda a, b: a + b))
            magnitudes.add(T.cast(size, "int32"))
            parts = self._parts(_largest(pairs, self._size // 2), _largest(groups, self.count))
            own = T.cast(place(vector, size), "int64")
            octets = T.reinterpret(emit.vector("uint8", self._size), codes)

            def store(step: Expr, chosen: Expr) -> None:
                emit.store(self.vector_of, vector * self.stride, row, step)
                signed = self.spec.activation is Encoding.INT8
                tables = subset_sums(chosen, self._size, signed=signed)
                emit.store(self.tables, tables, row, step, 0, lanes=self.count * COLUMNS)

            def several() -> None:
                with emit.loop("part", parts) as part:
                    first = emit.let(part == 0)
                    step = emit.let(T.Select(first, own, extra.get()))
                    store(step, emit.let(octets & self._members(part, parts)))
                    extra.add(T.Select(first, T.int64(0), T.int64(1)))

            emit.branch(parts == 1, lambda: store(own, emit.let(octets)), several)

        self._fill_row(row, fill)
        emit.store(self.steps, extra.get(), row)
        emit.store(self.base, self._base(row, magnitudes.get()), row)

    def _fill_row(self, _row: Expr, fill: Callable[[Expr, Place], None]) -> None:
        """Fill the tables of every vector."""
        with emit.loop("vector", self.vectors) as vector:
            fill(vector, lambda vector, _: vector)

    def _members(self, part: Expr, parts: Expr) -> Expr:
        """A mask of the bytes of the activations that belong to a part."""
        for index in range(GROUP):
            selected = T.int64(index) * parts // GROUP == part
            emit.store(self._selected, T.Select(selected, T.uint8(LARGEST), T.uint8(0)), index)
        mask = emit.let(emit.load(self._selected, 0, lanes=GROUP))
        return emit.concat([mask] * self.count, GROUP)

    def runs(self, row: Expr, limit: int, run: Callable[[Sequence[Steps]], None]) -> None:
        """Emit the steps of a row in runs that narrow sums can hold.

        Args:
            row: index of the row.
            limit: the most steps of a run.
            run: emits one run: the steps are added to sums that start from zero and end in wider ones.
        """

        def own(step: Expr) -> Expr:
            return step

        def further(step: Expr) -> Expr:
            return self.vector_of[row, step]

        steps = emit.let(self.steps[row])
        whole = (self.vectors - 1) // limit * limit
        for first in range(0, whole, limit):
            run([Steps(first, limit, own)])
        start_of_rest = emit.let(T.min(steps, T.int64(whole + limit)))
        run(
            [
                Steps(whole, self.vectors - whole, own),
                Steps(self.vectors, start_of_rest - self.vectors, further),
            ]
        )
        with emit.loop("run", T.ceildiv(steps - start_of_rest, limit)) as index:
            first = emit.let(start_of_rest + index * limit)
            run([Steps(first, T.min(T.int64(limit), steps - first), further)])

    def total(self, row: Expr, lookups: list[Expr], lanes: int) -> Expr:
        """The dot products of one row.

        Args:
            row: index of the row.
            lookups: int32 vectors, the sums of the lookups of each weight plane.
            lanes: lanes of a vector.

        Returns:
            int32, a vector of `lanes`.
        """
        *positive, negative = lookups
        total = emit.splat(emit.let(self.base[row]), lanes) - negative * emit.splat(T.int32(2), lanes)
        for other in positive:
            total = total + other
        return emit.let(total)

    def _base(self, row: Expr, magnitudes: Expr) -> Expr:
        """The constant of `total`, from the sum of |x|; n is the sum of -x over the negative activations.

        A lookup is a subset sum + n. With TERNARY planes (nonzero m, sign s), m.x - 2 s.x needs n; with the
        one plane b of BINARY, sum x - 2 b.x needs sum x + 2 n = sum |x|.
        """
        if self.spec.weight is Encoding.BINARY:
            return magnitudes
        return (magnitudes - self.rows.total(row)) >> T.int32(1)

    def _parts(self, largest_pair: Expr, largest_group: Expr) -> Expr:
        """The number of steps of a vector: 1, 2 or 4, the fewest with sums that fit a byte."""
        limit = T.uint16(LARGEST)
        two = T.int64(2)
        several = two if self._max_parts == 2 else T.Select(largest_pair <= limit, two, T.int64(GROUP))
        return emit.let(T.Select(largest_group <= limit, T.int64(1), several))

    def _magnitudes(self, codes: Expr) -> Expr:
        if self.spec.activation is Encoding.UINT8:
            return codes
        return emit.let(T.reinterpret(emit.vector("uint8", self._size), T.abs(codes)))


def subset_sums(codes: Expr, size: int, *, signed: bool) -> Expr:
    """The tables of a step: the subset sums of every four activations, from the smallest sum on.

    Sums are taken modulo 256, which is exact if every entry fits a byte.

    Args:
        codes: uint8, `size` codes, or the bits of int8 codes.
        size: activations of the step.
        signed: whether they are int8.

    Returns:
        uint8, 16 entries for every four activations: first those of the low nibbles of each byte of weights.
    """
    octets, count = size // 8, size // GROUP
    order = [odd * 2 + upper for upper in range(2) for odd in range(octets)]
    lanes = count * COLUMNS

    def spread(value: Expr, width: int, stride: int, index: int) -> Expr:
        """Lane `stride * group + index` of a vector of `width`, in every lane of the group's table."""
        wide = emit.let(emit.concat([value] * (lanes // width), width))
        return emit.shuffle(wide, [stride * group + index for group in order for _ in range(COLUMNS)])

    numbers = emit.let(T.reinterpret(f"uint8x{COLUMNS}", lane_numbers()))
    numbers = emit.concat([numbers] * count, COLUMNS)
    table: Expr | None = None
    for index in range(GROUP):
        bit = emit.splat(T.uint8(1 << index), lanes)
        zero = emit.splat(T.uint8(0), lanes)
        addend = T.Select((numbers & bit) == bit, spread(codes, size, GROUP, index), zero)
        table = addend if table is None else table + addend
    assert table is not None
    if not signed:
        return table
    values = T.reinterpret(emit.vector("int8", size), codes)
    below = T.max(emit.splat(T.int8(0), size), emit.splat(T.int8(0), size) - values)
    offsets = emit.let(T.reinterpret(emit.vector("uint8", size), below))
    groups = _pair_sums(_pair_sums(offsets, size), size // 2)
    return table + spread(groups, count, 1, 0)


def load_table(tables: Buffer, row: Expr, step: Expr, half: int) -> Expr:
    """The table of a step, in both halves of a vector of 32 bytes.

    Args:
        tables: uint8 [rows, steps, 32].
        row: index of the row.
        step: index of the step.
        half: 0 for the low nibbles of the weights, 1 for the high ones.

    Returns:
        uint8x32.
    """
    one = emit.let(emit.load(tables, row, step, half * COLUMNS, lanes=COLUMNS))
    return emit.let(emit.concat([one, one], COLUMNS))


def _pair_sums(values: Expr, lanes: int) -> Expr:
    values = emit.let(values)
    return emit.let(emit.shuffle(values, range(0, lanes, 2)) + emit.shuffle(values, range(1, lanes, 2)))


def _largest(values: Expr, lanes: int) -> Expr:
    return emit.reduce_lanes(values, lanes, T.max)
