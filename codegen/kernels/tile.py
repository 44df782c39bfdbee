"""The inner loop: a register tile of rows x column vectors, accumulated over the words of K."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tbt_compile.codegen.isa import Isa
from tbt_compile.codegen.kernels import emit, neon
from tbt_compile.codegen.kernels.bitproduct import BitProduct, Term, plane_count
from tbt_compile.codegen.tiles import Tile, tile
from tbt_compile.codegen.tvm_api import Expr, T

ReadRow = Callable[[Expr, int], Expr]
"""`read(word, plane)`: one uint64 of a row."""
ReadColumn = Callable[[Expr, int], Expr]
"""`read(word, plane)`: one uint64 in each lane, one lane per column."""

_BYTE_LIMIT = 255


@dataclass(frozen=True)
class Columns:
    """A vector of neighbouring columns."""

    read: ReadColumn
    lanes: int


def tile_shape(product: BitProduct, isa: Isa, most_vectors: int) -> Tile:
    """The tile for many rows: measured, or one whose accumulators fit the register file."""
    budget = isa.registers * 5 // 8
    shapes = (Tile(*shape) for shape in ((4, 4), (4, 2), (2, 2), (4, 1), (2, 1)))
    fit = (shape for shape in shapes if shape.rows * shape.vectors * len(product.coefficients) <= budget)
    chosen = tile(isa, kernel_name("planes", product), next(fit, Tile(1, 1)))
    return Tile(chosen.rows, min(chosen.vectors, _largest_power(most_vectors)))


def row_tile_vectors(product: BitProduct, isa: Isa, most_vectors: int, rows: int) -> int:
    """Vectors of a tile for a few rows."""
    budget = isa.registers * 5 // 8
    fits = (v for v in (4, 2, 1) if rows * v * len(product.coefficients) <= budget)
    chosen = Tile(1, next(fits, 1))
    if rows == 1:
        chosen = tile(isa, kernel_name("row", product), chosen)
    return min(chosen.vectors, _largest_power(most_vectors))


def kernel_name(family: str, product: BitProduct) -> str:
    """The name of a kernel in files of tiles."""
    return f"{family} {product.x.value}*{product.w.value}"


def _largest_power(most: int) -> int:
    return next(power for power in (4, 2, 1) if power <= most)


def dot_tile(
    product: BitProduct, words: Expr | int, rows: list[ReadRow], columns: list[Columns], isa: Isa
) -> list[list[Expr]]:
    """int32 vectors [row][group] of popcount sums; without the terms that depend on the row only.

    A group is `joined(...)` neighbouring column vectors.
    """
    counters = {
        (r, c, coefficient): _Counter(column.lanes, isa)
        for r in range(len(rows))
        for c, column in enumerate(columns)
        for coefficient in product.coefficients
    }
    shared = {
        (c, term.coefficient): _Counter(column.lanes, isa)
        for c, column in enumerate(columns)
        for term in product.columns
    }
    everything = [*counters.values(), *shared.values()]

    def step(word: Expr) -> None:
        row_words = [
            [emit.let(read(word, plane)) for plane in range(plane_count(product.x))] for read in rows
        ]
        for c, column in enumerate(columns):
            w = [emit.let(column.read(word, plane)) for plane in range(product.w.planes)]
            for term in product.columns:
                shared[c, term.coefficient].count(term.bits((), w))
            for r, planes in enumerate(row_words):
                x = [emit.splat(plane, column.lanes) for plane in planes]
                for term in product.terms:
                    counters[r, c, term.coefficient].count(term.bits(x, w))

    _accumulate(words, step, everything, longest_run(product, isa))

    size = joined(columns, isa)

    def total(r: int, first: int) -> Expr:
        group = range(first, first + size)
        parts = [(t.coefficient, [shared[c, t.coefficient] for c in group]) for t in product.columns]
        parts += [(value, [counters[r, c, value] for c in group]) for value in product.coefficients]
        lanes = size * columns[0].lanes
        result = None
        for coefficient, side_by_side in parts:
            value = _values(side_by_side) * emit.splat(T.int32(coefficient), lanes)
            result = value if result is None else result + value
        return emit.let(result)

    return [[total(r, first) for first in range(0, len(columns), size)] for r in range(len(rows))]


def joined(columns: Sequence[Columns], isa: Isa) -> int:
    """How many column vectors of 64-bit lanes share a vector of 32-bit sums."""
    fit = isa.float_lanes // columns[0].lanes
    return fit if fit > 1 and len(columns) % fit == 0 else 1


def row_terms(product: BitProduct, planes: list[Expr]) -> Expr:
    """What one word of a row adds to all of its dot products; `planes` as passed to `put`."""
    total: Expr = T.int32(0)
    for weight, plane in zip(product.row, planes, strict=True):
        if weight:
            total = total + T.cast(T.popcount(plane), "int32") * T.int32(weight)
    return total


def longest_run(product: BitProduct, isa: Isa) -> int | None:
    """Words that can be counted before a byte counter may overflow; None for 64-bit counters."""
    if isa.has_popcount:
        return None
    per_word = max(_repeats(product.terms), _repeats(product.columns)) * 8
    return _BYTE_LIMIT // per_word


def _repeats(terms: tuple[Term, ...]) -> int:
    coefficients = [term.coefficient for term in terms]
    return max((coefficients.count(value) for value in coefficients), default=1)


def _accumulate(
    words: Expr | int, step: Callable[[Expr], None], counters: list[_Counter], run: int | None
) -> None:
    if run is None or (isinstance(words, int) and words <= run):
        with emit.loop("word", words) as word:
            step(word)
        for counter in counters:
            counter.widen()
        return
    if isinstance(words, int):  # runs of equal length, which LLVM may unroll
        run = -(-words // -(-words // run))
    with emit.loop("run", (words + run - 1) // run) as index:
        equal = isinstance(words, int) and words % run == 0
        with emit.loop("word", run if equal else T.min(run, words - index * run)) as word:
            step(index * run + word)
        for counter in counters:
            counter.widen()


class _Counter:
    """Counts set bits per 64-bit lane.

    With a popcount instruction for 64-bit lanes it adds those. Otherwise it counts per byte, which is what
    AVX2 and NEON can do cheaply, and `widen` moves the bytes into wider lanes: 64-bit ones, or on NEON, which
    adds neighbours in one instruction, the two halves of those.
    """

    def __init__(self, lanes: int, isa: Isa) -> None:
        self.lanes = lanes
        self.bytewise = not isa.has_popcount and lanes > 1
        self.in_halves = self.bytewise and isa.neon
        self.total = (
            emit.Register("total", "uint32", 2 * lanes, emit.splat(T.uint32(0), 2 * lanes))
            if self.in_halves
            else emit.Register("total", "uint64", lanes, emit.splat(T.uint64(0), lanes))
        )
        if self.bytewise:
            octets = lanes * 8
            self.octets = emit.Register("octets", "uint8", octets, emit.splat(T.uint8(0), octets))

    def count(self, bits: Expr) -> None:
        """Adds the set bits of every lane."""
        if self.bytewise:
            self.octets.add(T.popcount(T.reinterpret(f"uint8x{self.lanes * 8}", bits)))
        else:
            self.total.add(T.popcount(bits))

    def widen(self) -> None:
        """Empties the byte counters into the wider ones."""
        if not self.bytewise:
            return
        if self.in_halves:
            self.total.add(neon.wide_pair_sums(neon.pair_sums(self.octets.get())))
        else:
            self.total.add(self._sums_of_octets())
        self.octets.set(emit.splat(T.uint8(0), self.lanes * 8))

    def _sums_of_octets(self) -> Expr:
        """The bytes of every 64-bit lane, added."""
        value = emit.let(T.reinterpret(f"uint64x{self.lanes}", self.octets.get()))
        for bits, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
            keep = emit.splat(T.uint64(mask), self.lanes)
            value = emit.let((value & keep) + ((value >> emit.splat(T.uint64(bits), self.lanes)) & keep))
        return value


def _values(counters: list[_Counter]) -> Expr:
    """The counts of neighbouring vectors as int32 lanes."""
    lanes, totals = counters[0].lanes, [counter.total.get() for counter in counters]
    if not counters[0].in_halves:
        return emit.join([emit.cast(total, "int32", lanes) for total in totals], lanes)
    sums = emit.let(T.reinterpret("int32x4", neon.add_neighbours(totals[0], totals[-1])))
    return sums if len(counters) > 1 else emit.pick(sums, range(lanes))
