"""GEMM of 8-bit activations and 1 or 2 bit weights, by byte dot products on unpacked weights.

A block of weights is unpacked to bytes once per chunk of rows, [K / 4, columns, 4]: four adjacent elements of
K share a 32-bit lane, the operand order of VPDPBUSD, VPMADDUBSW and SDOT.
"""

from __future__ import annotations

from tbt_compile.codegen.kernels.dot.byte_dot import GROUP, ByteDot
from tbt_compile.codegen.kernels.dot.byte_rows import ByteRows
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dot.weight_planes import unpaired
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.linear.spec import CHUNK_ROWS, LinearSpec
from tbt_compile.codegen.layouts import Layout, words_for
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.target.tiles import Tile, tile
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding


def unpacked_tile(isa: Isa, activation: Encoding) -> Tile:
    """The register tile: measured, or one whose accumulators leave registers for the operands."""
    return tile(isa, f"bytes {activation.value}", Tile(8 if isa.registers == 32 else 4, 2))


class UnpackedDot:
    """A chunk of rows as bytes, and its products with weight blocks; a `ChunkProduct`.

    Attributes:
        int8_weights: whether the weights have 8 bits; see `Int8Gemm`.
        tile: the register tile; `chunk_rows` is a multiple of its rows.
    """

    chunk_rows = CHUNK_ROWS
    packs_tables = False
    ops_per_word = 4
    blocks_per_task = 1
    int8_weights = False

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.dot = ByteDot(spec.isa, spec.activation, self.int8_weights)
        self.words = words_for(spec.k)
        self.groups = self.words * WORD_BITS // GROUP
        self.tile = unpacked_tile(spec.isa, spec.activation)
        padding = self.words * WORD_BITS - spec.k
        self.rows = ByteRows(spec.activation, spec.isa, spec.k, CHUNK_ROWS, padding)
        self.sums = emit.scratch("code_sums", (CHUNK_ROWS,), "int32")

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row."""
        self.rows.pack(row, load, self.spec.floor)
        if self.dot.biased:
            emit.store(self.sums, self.rows.total(row), row)

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: the weights, see `unpack`.
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        lanes = self.spec.isa.float_lanes
        vectors = self.spec.isa.block // lanes
        shape = (self.groups, self.spec.isa.block * GROUP)
        unpacked = emit.scratch("unpacked", shape, self.dot.weight_type)
        self.unpack(w, block, unpacked)
        width = min(self.tile.vectors, vectors)
        tiles = T.ceildiv(count, self.tile.rows)
        with emit.loop("tile", tiles) as index, emit.loop("part", vectors // width) as part:
            self._tile(index * self.tile.rows, count, part * (width * lanes), width, unpacked, epilogue)

    def _tile(
        self, first: Expr, count: Expr, column: Expr, width: int, unpacked: Buffer, epilogue: Epilogue
    ) -> None:
        """A register tile of `width` column vectors; rows from `count` on are computed but not stored."""
        lanes = self.spec.isa.float_lanes
        sums = self._sums(first, column, width, unpacked)
        for r in range(self.tile.rows):
            row = first + r
            with emit.when(row < count):
                scale = emit.let(self.rows.scales[row])
                bias = emit.let(self.sums[row]) if self.dot.biased else T.int32(0)
                for v in range(width):
                    total = emit.let(sums[r][v] - emit.splat(bias * T.int32(self.dot.offset), lanes))
                    epilogue(row, column + v * lanes, lanes, total, scale)

    def _sums(self, first: Expr, column: Expr, vectors: int, unpacked: Buffer) -> list[list[Expr]]:
        lanes = self.spec.isa.float_lanes
        sums = [[self.dot.accumulator() for _ in range(vectors)] for _ in range(self.tile.rows)]
        run = self.dot.max_steps or self.groups

        def step(group: Expr) -> None:
            weights = [
                emit.let(emit.load(unpacked, group, (column + v * lanes) * GROUP, lanes=lanes * GROUP))
                for v in range(vectors)
            ]
            for r in range(self.tile.rows):
                four = emit.load(self.rows.codes, first + r, group * GROUP, lanes=GROUP)
                x = emit.let(T.reinterpret("int32", four))
                for v in range(vectors):
                    sums[r][v].step(weights[v], x)

        with emit.loop("run", -(-self.groups // run)) as index:
            with emit.loop("group", T.min(T.int64(run), self.groups - index * run)) as group:
                step(index * run + group)
            for accumulator in (item for row in sums for item in row):
                accumulator.widen()
        return [[item.total.get() for item in row] for row in sums]

    def unpack(self, w: Buffer, block: Expr, out: Buffer) -> None:
        """Unpack a weight block to bytes.

        Args:
            w: uint64 [blocks, W, P, columns].
            block: index of the block.
            out: int8 or uint8 [K / 4, columns * 4].
        """
        lanes = self.spec.isa.float_lanes
        parts = self.spec.isa.block // lanes
        with emit.loop("word", self.words) as word, emit.loop("part", parts) as part:
            self._unpack(w, block, word, part * lanes, out)

    def _unpack(self, w: Buffer, block: Expr, word: Expr, column: Expr, out: Buffer) -> None:
        """Unpack one word of `float_lanes` columns byte by byte: two groups of four weights per column."""
        lanes = self.spec.isa.float_lanes
        with emit.loop("byte", 8) as byte:
            spread = []
            planes = [
                emit.load(w, block, word, plane, column, lanes=lanes)
                for plane in range(self.spec.weight.planes)
            ]
            for words in unpaired(planes, lanes) if self.spec.layout is Layout.PAIRS else planes:
                shift = emit.splat(T.cast(byte * 8, "uint64"), lanes)
                octets = T.reinterpret(f"uint8x{lanes * GROUP}", emit.cast(words >> shift, "uint32", lanes))
                first = [lane // GROUP * GROUP for lane in range(lanes * GROUP)]
                spread.append(emit.let(emit.shuffle(emit.let(octets), first)))
            for nibble in range(2):
                truths = [_four_bits(octets, nibble, lanes) for octets in spread]
                row = (word * 8 + byte) * 2 + nibble
                values = self._values(truths, lanes * GROUP)
                emit.store(out, values, row, column * GROUP, lanes=lanes * GROUP)

    def _values(self, truths: list[Expr], lanes: int) -> Expr:
        def fill(value: int) -> Expr:
            return emit.splat(T.cast(value + self.dot.biased, self.dot.weight_type), lanes)

        if self.spec.weight is Encoding.BINARY:
            return T.Select(truths[0], fill(-1), fill(1))
        nonzero, sign = truths
        return T.Select(sign, fill(-1), T.Select(nonzero, fill(1), fill(0)))


def _four_bits(octets: Expr, nibble: int, lanes: int) -> Expr:
    """Test bit 4 * nibble + j of byte j of every group of four equal bytes; a vector of booleans."""
    masks = emit.splat(T.uint32(0x80402010 if nibble else 0x08040201), lanes)
    bit = octets & T.reinterpret(f"uint8x{lanes * GROUP}", masks)
    return bit != emit.splat(T.uint8(0), lanes * GROUP)
