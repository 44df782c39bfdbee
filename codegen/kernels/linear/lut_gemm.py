"""GEMM of 1 or 2 bit codes by LUT, for x86 CPUs without vector popcount.

A group of four weight bits, 4 binary or 2 ternary codes, selects one of 16 bytes: the product of the group
with the same elements of the activations. One byte shuffle looks it up for 16 columns at once. A product
takes a shuffle and an addition, where popcounts take about nine instructions.

A byte of activation bits, the index, covers two adjacent groups of elements. Its table entry has the 16
products of the first group, then the 16 of the second. Likewise 32 bytes of weights have the first group of
16 columns, then the second. Indices are stored as byte offsets of their entries, which saves a shift per use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tbt_compile.codegen.kernels.dot.bit_product import bit_product
from tbt_compile.codegen.kernels.dot.lut_tables import COLUMNS, ENTRY, ProductTable, byte_splat
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue, PackedRows
from tbt_compile.codegen.kernels.dot.register_tile import tile_key
from tbt_compile.codegen.kernels.dot.weight_planes import flat, words_per_block
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.x86 import byte_shuffle
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.layouts import Layout, words_for
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.target.tiles import Tile, tile
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

PARTS = 2
"""Parts of 16 columns in a weight block of AVX2 and AVX-512."""
BYTES_PER_INDEX = PARTS * ENTRY
"""Bytes of unpacked weights per index."""
VECTORS = 2
"""Weight vectors per load of a table entry."""


def lut_tile_rows(tables: ProductTable, isa: Isa) -> int:
    """Rows of the register tile."""
    return tile(isa, tile_key("lookup", tables.product), Tile(4, VECTORS)).rows


class LutGemm:
    """A chunk of rows as LUT indices, and its products with weight blocks; a `ChunkProduct`."""

    chunk_rows = 128
    packs_tables = False
    ops_per_word = 6

    def __init__(self, spec: LinearSpec, scale: Expr) -> None:
        tables, capacity = ProductTable(bit_product(spec.activation, spec.weight)), self.chunk_rows
        self.spec = spec
        self.scale = scale
        self.tables = tables
        self.rows = PackedRows(tables.product, spec.isa, spec.k, capacity)
        self.words = words_for(spec.k)
        self.entries = self.words * tables.indices_per_word
        self.octets = spec.isa.vector_bits // 8
        self.blocks_per_task = VECTORS * self.octets // BYTES_PER_INDEX
        self.height = lut_tile_rows(tables, spec.isa)
        self.offsets = emit.scratch("offsets", (capacity, self.entries), "uint16")
        self.table = emit.scratch("table", ((1 << tables.index_bits) * ENTRY,), "uint8")
        tables.fill(self.table)

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row and compute its LUT offsets."""
        self.rows.pack(row, load, self.scale, self.spec.center)
        planes = self.rows.planes
        with emit.loop("word", self.words) as word:
            bits = [emit.let(self.rows.bits[row, word, plane, 0]) for plane in range(planes)]
            for half, indices in enumerate(self._indices(bits)):
                numbers = emit.cast(T.reinterpret("uint8x8", indices), "uint16", 8)
                at = word * self.tables.indices_per_word + half * 8
                emit.store(self.offsets, numbers * emit.splat(T.uint16(ENTRY), 8), row, at, lanes=8)

    def _indices(self, bits: list[Expr]) -> list[Expr]:
        """The indices of 64 elements, eight per word: each of eight elements, or in two words of four."""
        if self.tables.group == 4:
            return bits
        low = T.uint64(0x0F0F0F0F0F0F0F0F)
        halves = []
        for shift in (0, 4):
            result: Expr = T.uint64(0)
            for plane, word in enumerate(bits):
                result = result | ((word >> T.uint64(shift)) & low) << T.uint64(4 * plane)
            halves.append(result)
        return halves

    def multiply(self, count: Expr, w: Buffer, block: Expr, blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with weight blocks; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, P, columns].
            block: index of the first block.
            blocks: number of blocks.
            epilogue: consumes the dot products.
        """
        nibbles = emit.scratch("spread", (self.entries, blocks * BYTES_PER_INDEX), "uint8")
        with emit.loop("word", self.words) as word:
            for part in range(blocks * PARTS):
                planes = self._octets(w, block + part // PARTS, word, part % PARTS)
                self._store_nibbles(word, part, planes, nibbles)
        height = self.height
        whole = count // height
        with emit.loop("tile", whole) as index:
            self._tile(index * height, height, nibbles, epilogue)
        with emit.loop("row", count - whole * height) as row:
            self._tile(whole * height + row, 1, nibbles, epilogue)

    def _octets(self, w: Buffer, block: Expr, word: Expr, part: int) -> list[list[Expr]]:
        """The bytes of each plane of a word of 16 columns: vectors of bytes 2i, then bytes 2i + 1, of all."""
        planes = range(self.spec.weight.planes)
        if self.spec.layout is Layout.OCTETS:
            pairs = [_planes_of_octets(w, block, word, pair, part) for pair in range(4)]
            return [[pair[plane] for pair in pairs] for plane in planes]

        def load_two(plane: int) -> Callable[[int], Expr]:
            return lambda column: emit.load(w, block, word, plane, part * COLUMNS + column, lanes=2)

        return [_transposed(load_two(plane)) for plane in planes]

    def _store_nibbles(self, word: Expr, part: int, planes: list[list[Expr]], out: Buffer) -> None:
        """Store one word of 16 columns in vectors of ENTRY bytes, two groups of every column each."""

        def store(index: int, entry: Expr) -> None:
            at = word * self.tables.indices_per_word + index
            emit.store(out, entry, at, part * ENTRY, lanes=ENTRY)

        for pair, octets in enumerate(zip(*planes, strict=True)):
            for quarter, (first, second) in enumerate(_groups(octets)):
                for odd in range(2):
                    half = range(odd * COLUMNS, (odd + 1) * COLUMNS)
                    store(
                        quarter * 8 + 2 * pair + odd,
                        emit.concat([emit.shuffle(first, half), emit.shuffle(second, half)], COLUMNS),
                    )

    def _tile(self, first: Expr, height: int, nibbles: Buffer, epilogue: Epilogue) -> None:
        rows, width, zero = range(height), nibbles.shape[1].value, emit.splat(T.uint16(0), COLUMNS)
        sums = [[emit.Register("sums", "uint16", COLUMNS, zero) for _ in range(width // ENTRY)] for _ in rows]
        # Runs of equal length: the exit of the inner loop is then well predicted.
        runs = -(-self.entries // (255 // self.tables.max_entry))
        run = -(-self.entries // runs)
        with emit.loop("run", runs) as index:
            empty = emit.splat(T.uint8(0), self.octets)
            octets = [
                [emit.Register("octets", "uint8", self.octets, empty) for _ in range(width // self.octets)]
                for _ in rows
            ]
            steps = T.min(T.int64(run), self.entries - index * run) if self.entries % run else T.int64(run)
            with emit.loop("step", steps) as step:
                self._step(first, index * run + step, nibbles, octets)
            for row, vectors_of_row in zip(sums, octets, strict=True):
                values = [emit.let(octet.get()) for octet in vectors_of_row]
                for group in range(width // COLUMNS):
                    vector, start = divmod(group * COLUMNS, self.octets)
                    some = emit.shuffle(values[vector], range(start, start + COLUMNS))
                    row[group // 2].add(emit.cast(some, "uint16", COLUMNS))
        for r, row in enumerate(sums):
            self._apply_epilogue(first + r, [part.get() for part in row], epilogue)

    def _step(self, first: Expr, at: Expr, nibbles: Buffer, sums: list[list[emit.Register]]) -> None:
        """Look up and add the products of one index of every row."""
        weights = [
            emit.let(emit.load(nibbles, at, vector * self.octets, lanes=self.octets))
            for vector in range(len(sums[0]))
        ]
        for r, row in enumerate(sums):
            entry = load_entry(self.table, self.offsets[first + r, at], self.octets)
            for total, selected in zip(row, weights, strict=True):
                total.add(byte_shuffle(entry, selected, self.octets))

    def _apply_epilogue(self, row: Expr, sums: list[Expr], epilogue: Epilogue) -> None:
        scale = emit.let(self.rows.scales[row])
        groups = self.words * WORD_BITS // self.tables.group
        base = emit.let(self.rows.sums[row] + T.int32(groups * self.tables.min_product * self.tables.unit))
        lanes = self.spec.isa.float_lanes
        for part, counted in enumerate(sums):
            units = emit.let(emit.cast(counted, "int32", COLUMNS))
            total = (units << emit.splat(T.int32(self.tables.shift), COLUMNS)) + emit.splat(base, COLUMNS)
            total = emit.let(total)
            for start in range(0, COLUMNS, lanes):
                some = total if lanes == COLUMNS else emit.shuffle(total, range(start, start + lanes))
                epilogue(row, T.int64(part * COLUMNS + start), lanes, emit.let(some), scale)


def load_entry(table: Buffer, offset: Expr, octets: int) -> Expr:
    """Load a table entry and broadcast it to a vector.

    Args:
        table: uint8.
        offset: byte offset of the entry.
        octets: bytes of the vector, 32 or 64.

    Returns:
        uint8, a vector of `octets`.
    """
    entry = emit.let(emit.load(table, T.cast(offset, "int64"), lanes=ENTRY))
    return emit.concat([entry] * (octets // ENTRY), ENTRY)


def _groups(octets: Sequence[Expr]) -> list[tuple[Expr, Expr]]:
    """Split bytes of all planes into the 4-bit groups of adjacent elements, in the order of the elements."""

    def low(value: Expr) -> Expr:
        return emit.let(value & byte_splat(0x0F, ENTRY))

    def high(value: Expr) -> Expr:
        return emit.let(value >> byte_splat(4, ENTRY))

    if len(octets) == 1:
        return [(low(octets[0]), high(octets[0]))]
    nonzero, sign = octets
    two = byte_splat(2, ENTRY)
    even = emit.let((nonzero & byte_splat(0x33, ENTRY)) | ((sign & byte_splat(0x33, ENTRY)) << two))
    odd = emit.let(((nonzero >> two) & byte_splat(0x33, ENTRY)) | (sign & byte_splat(0xCC, ENTRY)))
    return [(low(even), low(odd)), (high(even), high(odd))]


def _planes_of_octets(w: Buffer, block: Expr, word: Expr, pair: int, part: int) -> list[Expr]:
    """Two bytes of 16 columns of ternary weights in `Layout.OCTETS`, by planes (nonzero, sign)."""
    words = ENTRY // 8
    start = emit.let(block * words_per_block(w))
    step = emit.let((start + word * (8 * PARTS * words)) + (2 * pair * PARTS + part) * words)
    first, second = (
        emit.let(T.reinterpret(f"uint8x{ENTRY}", emit.load(flat(w), step + odd * PARTS * words, lanes=words)))
        for odd in range(2)
    )
    positive, negative = (
        emit.let(emit.select([first, second], range(sign, 2 * ENTRY, 2))) for sign in range(2)
    )
    return [emit.let(positive | negative), negative]


def _transposed(load_two: Callable[[int], Expr]) -> list[Expr]:
    """Transpose the bytes of 16 columns of 64 bits to four vectors: bytes 2i of all columns, then 2i + 1.

    `load_two(c)` loads the words of columns c and c + 1. Every step but the last shuffles within 128-bit
    lanes.
    """
    lanes = [T.reinterpret(f"uint8x{COLUMNS}", load_two(c)) for c in range(0, COLUMNS, 2)]
    pairs = [emit.let(emit.concat([lanes[i], lanes[i + 4]], COLUMNS)) for i in range(4)]
    bytes_first = [
        16 * lane + 8 * column + byte for lane in range(2) for byte in range(8) for column in range(2)
    ]
    pairs = [emit.let(emit.shuffle(value, bytes_first)) for value in pairs]
    fours = [_zip_lanes(pairs[i], pairs[i + 1], 2, high) for high in range(2) for i in (0, 2)]
    eights = [_zip_lanes(fours[i], fours[i + 1], 4, high) for i in (0, 2) for high in range(2)]
    halves = [8 * quarter + byte for quarter in (0, 2, 1, 3) for byte in range(8)]
    return [emit.let(emit.shuffle(value, halves)) for value in eights]


def _zip_lanes(a: Expr, b: Expr, size: int, high: int) -> Expr:
    """Interleave elements of `size` bytes of a and b from the low or high half of each 128-bit lane."""
    lanes = [
        source * ENTRY + lane * 16 + high * 8 + element * size + byte
        for lane in range(2)
        for element in range(8 // size)
        for source in range(2)
        for byte in range(size)
    ]
    return emit.let(emit.select([a, b], lanes))
