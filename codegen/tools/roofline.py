"""The roofline of a kernel: arithmetic without memory traffic, and memory traffic without arithmetic.

`compute_roof` is the inner loop of a linear layer with the weights in registers and the activations in the
L1 cache, without packing, scales or stores. `read_roof` only reads an array. A linear layer cannot be faster
than the slower of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dispatch import Kernel
from tbt_compile.codegen.kernels.dot.bit_product import bit_product, plane_count
from tbt_compile.codegen.kernels.dot.byte_dot import GROUP, ByteDot
from tbt_compile.codegen.kernels.dot.lut_tables import ENTRY, ProductTable
from tbt_compile.codegen.kernels.dot.register_tile import (
    Columns,
    ReadColumn,
    ReadRow,
    dot_tile,
    gemm_tile,
    vectors_per_sum,
)
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import parallel_columns
from tbt_compile.codegen.kernels.linear.lut_gemm import VECTORS, byte_shuffle, load_entry, lut_tile_rows
from tbt_compile.codegen.kernels.linear.unpacked_dot import unpacked_tile
from tbt_compile.codegen.kernels.strategy import strategy
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, T
from tbt_compile.encoding import Encoding

_RESIDENT_WORDS = 64
READ_WORDS = 4096
"""Words per iteration of the parallel loop in `read_roof`."""


@dataclass(frozen=True)
class RoofSpec:
    """The arithmetic of a linear layer.

    Attributes:
        activation: any quantized encoding.
        weight: BINARY or TERNARY.
        words: steps of 64 elements of K; a multiple of 64.
        isa: instruction set.
    """

    activation: Encoding
    weight: Encoding
    words: int
    isa: Isa

    @property
    def tables(self) -> ProductTable | None:
        """The product table if GEMM uses `LUT_GEMM`; else None."""
        if strategy(self.activation, self.weight, self.isa).gemm is not Kernel.LUT_GEMM:
            return None
        return ProductTable(bit_product(self.activation, self.weight))

    @property
    def macs(self) -> int:
        """The number of multiply-accumulates that one call performs."""
        if self.activation.dynamic:
            tile = unpacked_tile(self.isa, self.activation)
            return tile.rows * tile.vectors * self.isa.float_lanes * WORD_BITS * self.words
        if self.tables is not None:
            columns = VECTORS * self.isa.vector_bits // 16
            return lut_tile_rows(self.tables, self.isa) * columns * WORD_BITS * self.words
        product = bit_product(self.activation, self.weight)
        tile = gemm_tile(product, self.isa, 4)
        return tile.rows * tile.vectors * self.isa.word_lanes * WORD_BITS * self.words


def compute_roof(spec: RoofSpec) -> PrimFunc:
    """The inner loop of a linear layer without packing, scales or stores.

    Arguments:
        x: uint64 [64, 64], read as rows of packed codes
        w: uint64 [64], read as packed weights
        y: int32 [16], the sums of all results, which keeps them from being optimised away
    """
    tables = spec.tables
    if tables is not None:
        return emit.function("compute_roof", lambda: _lut_loop(spec, tables))
    body = _dot_loop if spec.activation.dynamic else _popcount_loop
    return emit.function("compute_roof", lambda: body(spec))


def read_roof(words: int, isa: Isa) -> PrimFunc:
    """Read x, uint64 [words], once and write y, uint64 [words / 4096]; `words` is a multiple of 4096."""

    def body() -> None:
        x = emit.argument("x", (words,), "uint64")
        y = emit.argument("y", (words // READ_WORDS,), "uint64")
        lanes = isa.word_lanes
        streams = 8

        def part(index: Expr) -> None:
            sums = [
                emit.Register("sums", "uint64", lanes, emit.splat(T.uint64(0), lanes)) for _ in range(streams)
            ]
            with emit.loop("k", READ_WORDS // (lanes * streams)) as k:
                for stream, total in enumerate(sums):
                    at = index * READ_WORDS + stream * (READ_WORDS // streams) + k * lanes
                    total.set(total.get() ^ emit.load(x, at, lanes=lanes))
            value = sums[0].get()
            for total in sums[1:]:
                value = value ^ total.get()
            emit.store(y, emit.reduce_lanes(value, lanes, lambda a, b: a ^ b), index)

        parallel_columns(T.int64(1), 1, words // READ_WORDS, words, part)

    return emit.function("read_roof", body)


def _arguments() -> tuple[Expr, Expr, Expr]:
    x = emit.argument("x", (_RESIDENT_WORDS, WORD_BITS), "uint64")
    return x, emit.argument("w", (WORD_BITS,), "uint64"), emit.argument("y", (16,), "int32")


def _popcount_loop(spec: RoofSpec) -> None:
    x, w, y = _arguments()
    product = bit_product(spec.activation, spec.weight)
    tile = gemm_tile(product, spec.isa, 4)
    planes, lanes = plane_count(product.x), spec.isa.word_lanes

    def row(r: int) -> ReadRow:
        def read(word: Expr, plane: int, lanes: int) -> Expr:
            return emit.splat(emit.let(x[word % _RESIDENT_WORDS, r * planes + plane]), lanes)

        return read

    def column(c: int) -> ReadColumn:
        at = c * product.w.planes % (WORD_BITS // lanes)
        return lambda _, plane: emit.load(w, (at + plane) * lanes % WORD_BITS, lanes=lanes)

    rows = [row(r) for r in range(tile.rows)]
    columns = [Columns(column(c), lanes) for c in range(tile.vectors)]
    sums = dot_tile(product, spec.words, rows, columns, spec.isa)
    _store(sums, lanes * vectors_per_sum(columns, spec.isa), y)


def _dot_loop(spec: RoofSpec) -> None:
    x, w, y = _arguments()
    dot = ByteDot(spec.isa, spec.activation)
    tile = unpacked_tile(spec.isa, spec.activation)
    height, width = tile.rows, tile.vectors
    lanes = spec.isa.float_lanes
    sums = [[dot.accumulator() for _ in range(width)] for _ in range(height)]
    weights = [
        T.reinterpret(
            f"{dot.weight_type}x{lanes * GROUP}",
            emit.load(w, v * lanes // 2 % WORD_BITS, lanes=lanes // 2),
        )
        for v in range(width)
    ]
    groups = spec.words * WORD_BITS // GROUP
    run = dot.max_steps or groups
    with emit.loop("run", groups // run) as index:
        with emit.loop("group", run) as group:
            for r in range(height):
                four = T.cast(x[(index * run + group) % _RESIDENT_WORDS, r], "int32")
                for v in range(width):
                    sums[r][v].step(weights[v], emit.let(four))
        for accumulator in (item for row in sums for item in row):
            accumulator.widen()
    _store([[item.total.get() for item in row] for row in sums], lanes, y)


def _lut_loop(spec: RoofSpec, tables: ProductTable) -> None:
    x, w, y = _arguments()
    octets = spec.isa.vector_bits // 8
    height, width = lut_tile_rows(tables, spec.isa), VECTORS
    table = emit.scratch("table", ((1 << tables.index_bits) * ENTRY,), "uint8")
    tables.fill(table)
    zero = emit.splat(T.uint8(0), octets)
    sums = [[emit.Register("sums", "uint8", octets, zero) for _ in range(width)] for _ in range(height)]
    lanes = spec.isa.word_lanes
    offsets = emit.scratch("offsets", (height, _RESIDENT_WORDS * 4), "uint16")
    with emit.loop("r", height) as r, emit.loop("i", _RESIDENT_WORDS * 4) as i:
        some = x[i // 4, r] >> T.cast(i % 4 * 8, "uint64")
        index = T.cast(some % T.uint64(1 << tables.index_bits), "uint16")
        emit.store(offsets, index * T.uint16(ENTRY), r, i)
    weights = [
        T.reinterpret(f"uint8x{octets}", emit.let(emit.load(w, vector * lanes, lanes=lanes)))
        & emit.splat(T.uint8(15), octets)
        for vector in range(width)
    ]
    weights = [emit.let(value) for value in weights]
    with emit.loop("step", spec.words * tables.indices_per_word) as step:
        for r in range(height):
            entry = load_entry(table, offsets[r, step % (_RESIDENT_WORDS * 4)], octets)
            for total, selected in zip(sums[r], weights, strict=True):
                total.add(byte_shuffle(entry, selected, octets))
    wide = [[T.reinterpret(f"int32x{octets // 4}", item.get()) for item in row] for row in sums]
    _store(wide, octets // 4, y)


def _store(sums: list[list[Expr]], lanes: int, y: Expr) -> None:
    total = None
    for value in (item for row in sums for item in row):
        total = value if total is None else total + value
    emit.store(y, emit.let(total), 0, lanes=lanes)
