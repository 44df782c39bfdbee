"""GEMV, for up to 31 rows, of 8-bit activations and 1 or 2 bit weights, by byte dot products.

The weights stay packed. A mask leaves one code in each byte, at its bit position, which scales it by a power
of two. The byte is multiplied with the activation of the same element. Each position has an accumulator,
shifted back at the end. A vector of 64 codes thus costs a mask and a dot product.

    BINARY      a code is one bit, b; w = 1 - 2 b
    TERNARY     a code is two bits, c = 1 - w, in the layout of `layouts.pair`
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dispatch import UNPACK_FROM
from tbt_compile.codegen.kernels.dot.byte_dot import Accumulator, ByteDot
from tbt_compile.codegen.kernels.dot.byte_rows import ByteRows
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.linear.spec import WORDS_PER_LINE, LinearSpec
from tbt_compile.codegen.layouts import words_for
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.target.tiles import Tile, tile
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

MAX_ROWS = UNPACK_FROM - 1
"""Maximum number of rows per chunk."""
_PLACES = 8


@dataclass(frozen=True)
class Field:
    """One code of every byte.

    Attributes:
        place: index modulo 8 of the code's elements; selects the activations.
        plane: the weight plane that holds the code.
        shift: right shift of the plane before masking, to keep the sign bit of signed bytes clear.
        exponent: log2 of the code's scale, its bit position after the shift.
        bits: bits per code.
    """

    place: int
    plane: int
    shift: int
    exponent: int
    bits: int

    @property
    def mask(self) -> int:
        """The mask of the field in a byte."""
        return (1 << self.bits) - 1 << self.exponent


def packed_tile(isa: Isa, weight: Encoding) -> Tile:
    """The register tile for one row: measured, or as many column vectors as have registers for four sums."""
    return tile(isa, f"fields {weight.value}", Tile(1, 4 if isa.registers == 32 else 2))


class PackedDot:
    """A few rows of byte activations, and their products with packed weights; a `ChunkProduct`."""

    chunk_rows = MAX_ROWS
    packs_tables = False
    ops_per_word = 8
    blocks_per_task = 1

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        capacity = MAX_ROWS
        self.spec = spec
        self.words = words_for(spec.k)
        self.dot = ByteDot(spec.isa, spec.activation)
        padding = self.words * WORD_BITS - spec.k
        self.rows = ByteRows(spec.activation, spec.isa, spec.k, capacity, padding)
        self.sums = emit.scratch("code_sums", (capacity,), "int32")
        self.places = emit.scratch("places", (capacity, self.words, WORD_BITS), self.rows.codes.dtype)
        self.fields = self._fields()
        self.vectors = packed_tile(spec.isa, spec.weight).vectors

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row and sort the codes of each word by index modulo 8."""
        self.rows.pack(row, load, self.spec.floor)
        emit.store(self.sums, self.rows.total(row), row)
        by_place = [8 * octet + place for place in range(_PLACES) for octet in range(8)]
        with emit.loop("word", self.words) as word:
            codes = emit.let(emit.load(self.rows.codes, row, word * WORD_BITS, lanes=WORD_BITS))
            emit.store(self.places, emit.shuffle(codes, by_place), row, word, 0, lanes=WORD_BITS)

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, P, columns].
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        lanes = self.spec.isa.word_lanes
        with (
            emit.loop("row", count) as row,
            emit.loop("part", self.spec.isa.block // (self.vectors * lanes)) as part,
        ):
            column = part * (self.vectors * lanes)
            self._tile(row, emit.reread(w), block, column, epilogue)

    def _tile(self, row: Expr, w: Buffer, block: Expr, column: Expr, epilogue: Epilogue) -> None:
        """Adjacent column vectors, half of the fields at a time to keep the accumulators in registers."""
        lanes, wide = self.spec.isa.word_lanes, self.spec.isa.float_lanes
        zero = emit.splat(T.int32(0), wide)
        totals = [emit.Register("total", "int32", wide, zero) for _ in range(self.vectors)]
        half = len(self.fields) // 2
        for fields in (self.fields[:half], self.fields[half:]):
            sums = self._sums(row, w, block, column, fields)
            for field, vectors in zip(fields, sums, strict=True):
                for total, accumulator in zip(totals, vectors, strict=True):
                    total.add(accumulator.total.get() >> emit.splat(T.int32(field.exponent), wide))
        scale, code_sum = emit.let(self.rows.scales[row]), emit.let(self.sums[row])
        joined = min(2, self.vectors)
        for first in range(0, self.vectors, joined):
            columns = [self._columns(total.get()) for total in totals[first : first + joined]]
            codes = emit.concat(columns, lanes)
            step = emit.splat(T.int32(2 if self.spec.weight is Encoding.BINARY else 1), joined * lanes)
            value = emit.let(emit.splat(code_sum, joined * lanes) - step * codes)
            epilogue(row, column + first * lanes, joined * lanes, value, scale)

    def _sums(
        self, row: Expr, w: Buffer, block: Expr, column: Expr, fields: list[Field]
    ) -> list[list[Accumulator]]:
        """The accumulators [field][column vector]; each int32 lane sums half of a column's elements."""
        lanes, octets = self.spec.isa.word_lanes, self.spec.isa.vector_bits // 8
        sums = [[self.dot.accumulator() for _ in range(self.vectors)] for _ in fields]
        distance = self.spec.prefetch_distance
        with emit.loop("word", self.words) as word:
            for plane in range(self.spec.weight.planes):
                for line in range(0, self.vectors * lanes, WORDS_PER_LINE):
                    emit.prefetch(w, block, word + distance, plane, column + line)
            planes = [
                [
                    emit.let(emit.load(w, block, word, plane, column + v * lanes, lanes=lanes))
                    for plane in range(self.spec.weight.planes)
                ]
                for v in range(self.vectors)
            ]
            for index, field in enumerate(fields):
                eight = emit.load(self.places, row, word, field.place * 8, lanes=8)
                codes = emit.let(emit.splat(T.reinterpret("uint64", eight), lanes))
                x = T.reinterpret(emit.vector(self.rows.codes.dtype, octets), codes)
                for v in range(self.vectors):
                    bits = planes[v][field.plane]
                    if field.shift:
                        bits = bits >> emit.splat(T.uint64(field.shift), lanes)
                    masked = self._octets(bits) & emit.splat(T.uint8(field.mask), octets)
                    weights = T.reinterpret(emit.vector(self.dot.weight_type, octets), emit.let(masked))
                    sums[index][v].multiply(weights, x)
        return sums

    def _columns(self, total: Expr) -> Expr:
        """Add the two int32 lanes of each column."""
        total = emit.let(total)
        halves = [emit.shuffle(total, range(half, self.spec.isa.float_lanes, 2)) for half in range(2)]
        return emit.let(halves[0] + halves[1])

    def _octets(self, words: Expr) -> Expr:
        return T.reinterpret(emit.vector("uint8", self.spec.isa.vector_bits // 8), emit.let(words))

    def _fields(self) -> list[Field]:
        bits = self.spec.weight.planes
        fields = []
        for place in range(_PLACES):
            plane, exponent = place % bits, place // bits * bits
            # For signed weight bytes, the top field would set the sign bit.
            shift = bits if exponent + bits == _PLACES and not self.dot.biased else 0
            fields.append(Field(place, plane, shift, exponent - shift, bits))
        return sorted(fields, key=lambda field: field.plane)
