"""8-bit activations and 1 or 2 bit weights by SMMLA and USMMLA (AArch64 i8mm), from two rows on.

The instruction multiplies two rows of eight bytes with two columns of eight bytes: four sums of eight
products. A vector of two packed words has two columns of eight bytes. A shift and a mask leave one code in
every byte:

    BINARY      a code is one bit, b; w = 1 - 2 b
    TERNARY     a code is two bits, c = 1 - w, in the layout of `layouts.pair`

The codes of two rows lie next to each other, sorted by index modulo 8 as those of the columns are. Few rows
unpack the columns as they multiply them. Many rows unpack a block once and share it.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.dispatch import MATRIX_TILE, matrix_key
from tbt_compile.codegen.kernels.dot.byte_rows import ByteRows
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dsl import emit, neon
from tbt_compile.codegen.kernels.dsl.loops import row_tiles
from tbt_compile.codegen.kernels.linear.spec import CHUNK_ROWS, LinearSpec
from tbt_compile.codegen.layouts import words_for
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.target.tiles import Tile, tile
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

GROUP = 8
"""Adjacent bytes of a row or column in an operand."""
SHARE_FROM = 16
"""The number of rows from which unpacked columns are stored."""
_OCTETS = 2 * GROUP
_COLUMNS = 2

Columns = Callable[[Expr], Callable[[int], list[Expr]]]
"""`columns(word)(place)`: the codes with index `place` modulo 8 of a tile's columns, two columns a vector."""


def matrix_tile(isa: Isa, weight: Encoding) -> Tile:
    """The register tile: measured, or 8 rows by 8 columns. The epilogue takes two vectors of columns."""
    found = tile(isa, matrix_key(weight), MATRIX_TILE)
    return Tile(found.rows, max(2, found.vectors))


class MatrixDot:
    """A chunk of rows as pairs of bytes, and its products with weight blocks; a `ChunkProduct`."""

    chunk_rows = CHUNK_ROWS
    packs_tables = False
    ops_per_word = 4
    blocks_per_task = 1

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.words = words_for(spec.k)
        self.rows = ByteRows(spec.activation, spec.isa, spec.k, CHUNK_ROWS, self.words * WORD_BITS - spec.k)
        shape = (CHUNK_ROWS // 2, self.words * WORD_BITS // GROUP, _OCTETS)
        self.pairs = emit.scratch("pairs", shape, self.rows.codes.dtype)
        self.sums = emit.scratch("code_sums", (CHUNK_ROWS,), "int32")
        self.tile = matrix_tile(spec.isa, spec.weight)

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row and place it beside its neighbour."""
        self.rows.pack(row, load, self.spec.floor)
        self.sum_codes(row)
        with emit.loop("word", self.words) as word:
            codes = emit.let(emit.load(self.rows.codes, row, word * WORD_BITS, lanes=WORD_BITS))
            for place in range(GROUP):
                eight = emit.shuffle(codes, self.lanes_of(place))
                at = (row // 2, word * GROUP + place, row % 2 * GROUP)
                emit.store(self.pairs, eight, *at, lanes=GROUP)

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: the weights, as `linear` takes them.
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        vectors = self.tile.vectors
        emit.branch(
            count >= SHARE_FROM,
            lambda: self.multiply_unpacked(count, w, block, epilogue),
            lambda: self._multiply(count, lambda first: self._packed(w, block, first, vectors), epilogue),
        )

    def multiply_unpacked(self, count: Expr, w: Buffer, block: Expr, epilogue: Epilogue) -> None:
        """Unpack a block and multiply packed rows with it.

        Args:
            count: number of rows.
            w: the weights, as `linear` takes them.
            block: index of the block.
            epilogue: consumes the dot products.
        """
        shape = (self.words * GROUP, self.spec.isa.block * GROUP)
        unpacked = emit.scratch("unpacked", shape, "int8")
        self.unpack(w, block, unpacked)
        self._multiply(count, lambda first: _stored(unpacked, first, self.tile.vectors), epilogue)

    def lanes_of(self, place: int) -> range:
        """The elements of a word that operand `place` holds."""
        return range(place, WORD_BITS, GROUP)

    def sum_codes(self, row: Expr) -> None:
        """Keep the sum of a row's codes for `total`."""
        emit.store(self.sums, self.rows.total(row), row)

    def total(self, row: Expr, sums: Expr, lanes: int) -> Expr:
        """The dot products of a row.

        Args:
            row: index of the row.
            sums: int32, its products with the columns' codes.
            lanes: lanes of `sums`.

        Returns:
            int32, a vector of `lanes`.
        """
        step = emit.splat(T.int32(2 if self.spec.weight is Encoding.BINARY else 1), lanes)
        return emit.let(emit.splat(self.sums[row], lanes) - step * sums)

    def unpack(self, w: Buffer, block: Expr, out: Buffer) -> None:
        """Unpack a weight block to bytes.

        Args:
            w: uint64 [blocks, W, P, columns].
            block: index of the block.
            out: int8 [K / 8, columns * 8].
        """
        columns = self._packed(w, block, T.int64(0), self.spec.isa.block // _COLUMNS)
        with emit.loop("word", self.words) as word:
            codes_at = columns(word)
            for place in range(GROUP):
                for vector, codes in enumerate(codes_at(place)):
                    emit.store(out, codes, word * GROUP + place, vector * _OCTETS, lanes=_OCTETS)

    def _packed(self, w: Buffer, block: Expr, first: Expr, vectors: int) -> Columns:
        """The packed columns of a block from `first` on."""
        bits = self.spec.weight.planes

        def columns(word: Expr) -> Callable[[int], list[Expr]]:
            planes = [
                [
                    emit.let(emit.load(w, block, word, plane, first + v * _COLUMNS, lanes=_COLUMNS))
                    for v in range(vectors)
                ]
                for plane in range(bits)
            ]

            def codes(place: int) -> list[Expr]:
                plane, shift = place % bits, place // bits * bits
                return [_field(words, shift, bits) for words in planes[plane]]

            return codes

        return columns

    def _multiply(self, count: Expr, columns: Callable[[Expr], Columns], epilogue: Epilogue) -> None:
        """All rows, in tiles of pairs."""
        pairs = emit.let(T.ceildiv(count, T.int64(2)))

        def tiles(first: Expr, height: int) -> None:
            self._row_tiles(first, height, count, columns, epilogue)

        row_tiles(pairs, self.tile.rows // 2, tiles)

    def _row_tiles(
        self, pair: Expr, height: int, count: Expr, columns: Callable[[Expr], Columns], epilogue: Epilogue
    ) -> None:
        """All columns of a block for `height` pairs of rows; the row from `count` on is not stored."""
        width = self.tile.vectors
        with emit.loop("part", self.spec.isa.block // (width * _COLUMNS)) as part:
            column = emit.let(part * (width * _COLUMNS))
            sums = self._sums(pair, height, columns(column))
            for index in range(height * 2):
                row = emit.let((pair + index // 2) * 2 + index % 2)
                with emit.when(row < count):
                    scale = emit.let(self.rows.scales[row])
                    for first in range(0, width, 2):
                        left, right = sums[index // 2][first : first + 2]
                        own = [lane + index % 2 * _COLUMNS for lane in (0, 1, 4, 5)]
                        both = emit.let(emit.select([left, right], own))
                        lanes = 2 * _COLUMNS
                        total = self.total(row, both, lanes)
                        epilogue(row, column + first * _COLUMNS, lanes, total, scale)

    def _sums(self, pair: Expr, height: int, columns: Columns) -> list[list[Expr]]:
        """int32x4 [pair][vector]: two columns of the first row, then of the second."""
        unsigned = self.spec.activation is Encoding.UINT8
        zero = emit.splat(T.int32(0), 4)
        sums = [
            [emit.Register("sums", "int32", 4, zero) for _ in range(self.tile.vectors)] for _ in range(height)
        ]
        with emit.loop("word", self.words) as word:
            codes_at = columns(word)
            for place in range(GROUP):
                weights = codes_at(place)
                for r, row_sums in enumerate(sums):
                    x = emit.let(emit.load(self.pairs, pair + r, word * GROUP + place, 0, lanes=_OCTETS))
                    for added, codes in zip(row_sums, weights, strict=True):
                        added.set(neon.matrix_product(added.get(), x, codes, unsigned=unsigned))
        return [[emit.let(added.get()) for added in row] for row in sums]


def _stored(unpacked: Buffer, first: Expr, vectors: int) -> Columns:
    """The unpacked columns of a block from `first` on."""

    def columns(word: Expr) -> Callable[[int], list[Expr]]:
        def codes(place: int) -> list[Expr]:
            row = word * GROUP + place
            return [
                emit.let(emit.load(unpacked, row, first * GROUP + v * _OCTETS, lanes=_OCTETS))
                for v in range(vectors)
            ]

        return codes

    return columns


def _field(words: Expr, shift: int, bits: int) -> Expr:
    """The codes of `bits` bits from bit `shift` of every byte on, int8."""
    octets = T.reinterpret(neon.OCTETS, words)
    if shift:
        octets = octets >> emit.splat(T.uint8(shift), _OCTETS)
    if shift + bits < 8:
        octets = octets & emit.splat(T.uint8((1 << bits) - 1), _OCTETS)
    return emit.let(T.reinterpret(f"int8x{_OCTETS}", emit.let(octets)))
