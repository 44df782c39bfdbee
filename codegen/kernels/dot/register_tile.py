"""The inner loop of popcount kernels: a register tile of rows x column vectors, accumulated over K."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tbt_compile.codegen.kernels.dot.bit_product import BitProduct, PopcountTerm, bit_product, plane_count
from tbt_compile.codegen.kernels.dot.carry_save import CarrySaveAccumulator
from tbt_compile.codegen.kernels.dot.popcount import Counter, counted
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.strategy import counts_with_carry_save
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.tiles import Tile, tile
from tbt_compile.codegen.tvm_api import Expr, T
from tbt_compile.encoding import Encoding

ReadRow = Callable[[Expr, int, int], Expr]
"""`read(word, plane, lanes)`: one uint64 of a row, broadcast to `lanes`."""
ReadColumn = Callable[[Expr, int], Expr]
"""`read(word, plane)`: one uint64 per column, one column per lane."""

_BYTE_LIMIT = 255
_UNROLL = 4
"""Unroll factor of the loop over words on AArch64, where LLVM does not unroll it."""


@dataclass(frozen=True)
class Columns:
    """A vector of adjacent columns."""

    read: ReadColumn
    lanes: int


def gemm_tile(product: BitProduct, isa: Isa, max_vectors: int) -> Tile:
    """The tile for many rows (GEMM): measured, or one whose accumulators fit the register file.

    Args:
        product: the pair of encodings.
        isa: instruction set.
        max_vectors: column vectors available.

    Returns:
        Rows and column vectors of the tile.
    """
    budget = isa.registers * 5 // 8
    shapes = (Tile(*shape) for shape in ((4, 4), (4, 2), (2, 2), (4, 1), (2, 1)))
    fit = (shape for shape in shapes if shape.rows * shape.vectors * len(product.coefficients) <= budget)
    chosen = tile(isa, tile_key("planes", product), next(fit, Tile(1, 1)))
    return Tile(chosen.rows, min(chosen.vectors, _largest_power(max_vectors)))


def gemv_vectors(product: BitProduct, isa: Isa, max_vectors: int, rows: int) -> int:
    """Column vectors of a tile for few rows: measured for one row (GEMV), else as many as fit the registers.

    Args:
        product: the pair of encodings.
        isa: instruction set.
        max_vectors: column vectors available.
        rows: rows of the tile.

    Returns:
        1, 2 or 4.
    """
    budget = isa.registers * 5 // 8
    fits = (v for v in (4, 2, 1) if rows * v * len(product.coefficients) <= budget)
    chosen = Tile(1, next(fits, 1))
    if rows == 1:
        chosen = tile(isa, tile_key("row", product), chosen)
    return min(chosen.vectors, _largest_power(max_vectors))


def tile_key(family: str, product: BitProduct) -> str:
    """The key of a kernel in tile files."""
    return f"{family} {product.x.value}*{product.w.value}"


def _largest_power(limit: int) -> int:
    return next(power for power in (4, 2, 1) if power <= limit)


def dot_tile(
    product: BitProduct, words: Expr | int, rows: list[ReadRow], columns: list[Columns], isa: Isa
) -> list[list[Expr]]:
    """The dot products of a register tile, without the terms that depend on the row only.

    Args:
        product: the popcount formula.
        words: number of words of K; symbolic for P.V.
        rows: readers of the rows.
        columns: column vectors, of equal lanes.
        isa: instruction set.

    Returns:
        int32 vectors [row][group]; a group is `vectors_per_sum(...)` adjacent column vectors.
    """
    if counts_with_carry_save(product.x, product.w, isa):
        return _carry_save_tile(words, rows, columns, isa)
    counters = {
        (r, c, coefficient): Counter(column.lanes, isa)
        for r in range(len(rows))
        for c, column in enumerate(columns)
        for coefficient in product.coefficients
    }
    shared = {
        (c, term.coefficient): Counter(column.lanes, isa)
        for c, column in enumerate(columns)
        for term in product.columns
    }
    everything = [*counters.values(), *shared.values()]

    def step(word: Expr) -> None:
        row_words = _row_words(product, rows, columns[0].lanes, word)
        for c, column in enumerate(columns):
            w = [emit.let(column.read(word, plane)) for plane in range(product.w.planes)]
            for term in product.columns:
                shared[c, term.coefficient].count(term.bits((), w))
            for r, x in enumerate(row_words):
                for term in product.terms:
                    counters[r, c, term.coefficient].count(term.bits(x, w))

    _accumulate(words, step, everything, product, isa)

    def parts(r: int, c: int) -> list[tuple[int, Counter]]:
        own = [(value, counters[r, c, value]) for value in product.coefficients]
        return [(term.coefficient, shared[c, term.coefficient]) for term in product.columns] + own

    return _totals(parts, len(rows), columns, isa)


def _carry_save_tile(
    words: Expr | int, rows: list[ReadRow], columns: list[Columns], isa: Isa
) -> list[list[Expr]]:
    """`dot_tile` by `CarrySaveAccumulator`."""
    product = bit_product(Encoding.TERNARY, Encoding.TERNARY)
    sums = {
        (r, c): CarrySaveAccumulator(column.lanes, isa)
        for r in range(len(rows))
        for c, column in enumerate(columns)
    }

    def step(word: Expr) -> None:
        row_words = _row_words(product, rows, columns[0].lanes, word)
        for c, column in enumerate(columns):
            w = [emit.let(column.read(word, plane)) for plane in range(product.w.planes)]
            for r, x in enumerate(row_words):
                sums[r, c].add(x, w)

    _accumulate(words, step, [accumulator.carries for accumulator in sums.values()], product, isa)
    for accumulator in sums.values():
        accumulator.end()
    return _totals(lambda r, c: sums[r, c].parts, len(rows), columns, isa)


def _row_words(product: BitProduct, rows: list[ReadRow], lanes: int, word: Expr) -> list[list[Expr]]:
    return [[read(word, plane, lanes) for plane in range(plane_count(product.x))] for read in rows]


def _totals(
    parts: Callable[[int, int], Sequence[tuple[int, Counter]]], rows: int, columns: list[Columns], isa: Isa
) -> list[list[Expr]]:
    """The sums [row][group] of `coefficient * counter` over the parts of each row and column vector."""
    size = vectors_per_sum(columns, isa)
    lanes = size * columns[0].lanes

    def total(r: int, first: int) -> Expr:
        group = [parts(r, c) for c in range(first, first + size)]
        result = None
        for adjacent in zip(*group, strict=True):
            coefficient = adjacent[0][0]
            counts = counted([counter for _, counter in adjacent])
            value = counts * emit.splat(T.int32(coefficient), lanes)
            result = value if result is None else result + value
        return emit.let(result)

    return [[total(r, first) for first in range(0, len(columns), size)] for r in range(rows)]


def vectors_per_sum(columns: Sequence[Columns], isa: Isa) -> int:
    """The number of column vectors, of 64-bit lanes, whose sums share a vector of 32-bit lanes."""
    fit = isa.float_lanes // columns[0].lanes
    return fit if fit > 1 and len(columns) % fit == 0 else 1


def row_terms(product: BitProduct, planes: list[Expr]) -> Expr:
    """The row terms of one word, int32; `planes` are the words of the row's planes."""
    total: Expr = T.int32(0)
    for weight, plane in zip(product.row, planes, strict=True):
        if weight:
            total = total + T.cast(T.popcount(plane), "int32") * T.int32(weight)
    return total


def words_before_widening(product: BitProduct, isa: Isa) -> int | None:
    """The number of words before a byte counter may overflow; None for 64-bit counters."""
    if isa.has_popcount:
        return None
    per_word = max(_repeats(product.terms), _repeats(product.columns)) * 8
    return _BYTE_LIMIT // per_word


def _repeats(terms: tuple[PopcountTerm, ...]) -> int:
    coefficients = [term.coefficient for term in terms]
    return max((coefficients.count(value) for value in coefficients), default=1)


def _accumulate(
    words: Expr | int, step: Callable[[Expr], None], counters: list[Counter], product: BitProduct, isa: Isa
) -> None:
    run = words_before_widening(product, isa)
    if run is None or (isinstance(words, int) and words <= run):
        _each_word(words, step, isa)
        for counter in counters:
            counter.widen()
        return
    if isinstance(words, int):  # balance the runs: LLVM may unroll runs of equal length
        run = -(-words // -(-words // run))
    with emit.loop("run", (words + run - 1) // run) as index:
        equal = isinstance(words, int) and words % run == 0
        first = index * run
        _each_word(run if equal else T.min(run, words - first), lambda word: step(first + word), isa)
        for counter in counters:
            counter.widen()


def _each_word(words: Expr | int, step: Callable[[Expr], None], isa: Isa) -> None:
    unroll = _UNROLL if isa.has("neon") and isinstance(words, int) and words % _UNROLL == 0 else 1
    with emit.loop("word", words // unroll) as word:
        for offset in range(unroll):
            step(word * unroll + offset)
