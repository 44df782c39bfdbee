"""Linear layers of 8-bit activations and 1 or 2 bit weights by LUT, for x86 CPUs without VNNI.

A step multiplies one byte of a weight plane of every column with the tables of `dot/sum_tables.py`:

    load     `Layout.OCTETS`: vectors have the same byte of adjacent columns, of 32 at 1 bit; at 2 bits of 16,
             the positive plane of each next to the negative one.
    index    an AND, or a shift and an AND, for the low and the high nibble of every byte; done once for all
             rows of a chunk.
    look up  VPSHUFB, in the same 16 bytes for all columns.
    add      both lookups as bytes where that fits, see `dot/paired_tables.py`. At 2 bits VPMADDUBSW subtracts
             the lookup of the negative plane from that of the positive one, and a 16-bit sum takes the
             difference. At 1 bit the bytes are added as 16-bit lanes to one sum, and the high byte of every
             lane (VPMADDUBSW with 0 and 1) to another: the sums of the odd columns, and what they added to
             those of the even ones.

A paired step takes 10 instructions for 256 products at 2 bits, 6 at 1 bit, and 3 a vector for the indices;
with unpacked weights 256 products take 8 VPMADDUBSW and 8 additions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tbt_compile.codegen.kernels.dot.lut_tables import byte_splat
from tbt_compile.codegen.kernels.dot.packed_rows import Epilogue
from tbt_compile.codegen.kernels.dot.paired_tables import RUN, SINGLE_RUN, WORDS, PairedTables
from tbt_compile.codegen.kernels.dot.sum_tables import load_table
from tbt_compile.codegen.kernels.dot.weight_planes import flat, words_per_block
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.x86 import byte_shuffle, multiply_bytes
from tbt_compile.codegen.kernels.linear.spec import LinearSpec
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

BLOCK = 8 * WORDS
"""Columns of a block, and bytes of a vector: those of AVX2, with AVX-512 too."""
UNPACK_FROM = 3
"""The number of rows from which the indices of a run are stored."""
_HALF = BLOCK // 2

Indices = Callable[[Expr, int], tuple[Expr, Expr]]
"""`indices(at, piece)`: the low and the high nibbles of 32 weight bytes, uint8. `at` is the first word of the
vector's pieces in the block, see `SumTables.vector_of`."""


class ShuffleSums:
    """A chunk of rows as tables of subset sums, and its products with weight blocks; a `ChunkProduct`."""

    chunk_rows = 16  # tables of 4 K bytes each, in the L2 cache
    packs_tables = True
    blocks_per_task = 1

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.ops_per_word = 6 * spec.weight.planes
        self.tables = PairedTables(spec, self.chunk_rows)
        self.pack = self.tables.pack

    def multiply(self, count: Expr, w: Buffer, block: Expr, _blocks: int, epilogue: Epilogue) -> None:
        """Multiply packed rows with one weight block; see `ChunkProduct.multiply`.

        Args:
            count: number of rows.
            w: uint64 [blocks, W, P, 32], in `Layout.OCTETS`.
            block: index of the block.
            _blocks: always 1.
            epilogue: consumes the dot products.
        """
        packed = PackedIndices(w, block)
        emit.branch(
            count < UNPACK_FROM,
            lambda: self._few(count, packed, epilogue),
            lambda: self._many(count, packed, epilogue),
        )

    def _few(self, count: Expr, packed: PackedIndices, epilogue: Epilogue) -> None:
        """Row by row, all runs of a row."""
        with emit.loop("row", count) as row:
            totals = Totals()
            with emit.loop("run", self.tables.run_count) as run:
                self._add_run(row, run, packed, totals, packed.prefetch)
            self._end(row, totals, packed, epilogue)

    def _many(self, count: Expr, packed: PackedIndices, epilogue: Epilogue) -> None:
        """Run by run, all rows of a run, which share its unpacked indices."""
        pieces = self.spec.weight.planes
        kept = emit.scratch("totals", (self.chunk_rows, BLOCK), "int32")
        stride = self.tables.stride
        unpacked = [emit.scratch("indices", (RUN * stride,), "uint64") for _ in range(2)]
        with emit.loop("row", count) as row:
            Totals().save(kept, row)
        with emit.loop("run", self.tables.run_count) as run:
            first = emit.let(run * RUN)
            with emit.loop("vector", self.tables.end(run) - first) as index:
                for piece in range(pieces):
                    for half, nibbles in zip(unpacked, packed((first + index) * stride, piece), strict=True):
                        words = T.reinterpret(f"uint64x{WORDS}", nibbles)
                        emit.store(half, words, index * stride + piece * WORDS, lanes=WORDS)

            def indices(at: Expr, piece: int, first: Expr = first) -> tuple[Expr, Expr]:
                low, high = (
                    T.reinterpret(
                        f"uint8x{BLOCK}", emit.load(half, at - first * stride + piece * WORDS, lanes=WORDS)
                    )
                    for half in unpacked
                )
                return low, high

            with emit.loop("row", count) as row:
                totals = Totals(kept, row)
                self._add_run(row, run, indices, totals)
                totals.save(kept, row)
        with emit.loop("row", count) as row:
            self._end(row, Totals(kept, row), packed, epilogue)

    def _add_run(
        self,
        row: Expr,
        run: Expr,
        indices: Indices,
        totals: Totals,
        at_step: Callable[[Expr], None] = lambda _: None,
    ) -> None:
        """Add the steps of one run; `at_step` emits what else every step does."""
        first, end = emit.let(run * RUN), emit.let(self.tables.end(run))
        single = emit.let(first + self.tables.paired[row, run])

        def add(start: Expr, stop: Expr, *, paired: bool) -> None:
            self._add_steps(row, (start, stop), indices, totals, at_step, paired=paired)

        add(first, single, paired=True)
        _in_runs(single, end, lambda start, stop: add(start, stop, paired=False))

    def _add_steps(
        self,
        row: Expr,
        steps: tuple[Expr, Expr],
        indices: Indices,
        totals: Totals,
        at_step: Callable[[Expr], None] = lambda _: None,
        *,
        paired: bool,
    ) -> None:
        """Add the steps from the first to before the second of `steps`, as many as 16 bits can sum."""
        start, stop = steps
        sums = _UnsignedSums() if self.spec.weight is Encoding.BINARY else _Differences()
        with emit.loop("step", stop - start) as index:
            step = emit.let(start + index)
            at_step(step)
            self._add_step(row, step, indices, sums, paired=paired)
        totals.add(sums.widened())

    def _add_step(self, row: Expr, step: Expr, indices: Indices, sums: _Sums, *, paired: bool) -> None:
        """Add the lookups of one step; where `paired`, the two of each byte fit a byte."""
        at = emit.let(self.tables.vector_of[row, step])
        low, high = (load_table(self.tables.tables, row, step, half) for half in range(2))
        for piece in range(self.spec.weight.planes):
            lower, upper = indices(at, piece)
            some, others = byte_shuffle(low, lower, BLOCK), byte_shuffle(high, upper, BLOCK)
            for octets in [some + others] if paired else [some, others]:
                sums.add(piece, octets)

    def _end(self, row: Expr, totals: Totals, packed: Indices, epilogue: Epilogue) -> None:
        """Add the extra steps of a row, and store its dot products."""

        def add(start: Expr, stop: Expr) -> None:
            self._add_steps(row, (start, stop), packed, totals, paired=False)

        _in_runs(T.int64(self.tables.vectors), emit.let(self.tables.steps[row]), add)
        scale, lanes = emit.let(self.tables.rows.scales[row]), self.spec.isa.float_lanes
        halves = [self.tables.total(row, [half], _HALF) for half in totals.get()]
        for column in range(0, BLOCK, lanes):
            places = [self._place(place) for place in range(column, column + lanes)]
            values = emit.let(emit.select(halves, places))
            epilogue(row, T.int64(column), lanes, values, scale)

    def _place(self, column: int) -> int:
        """Where the sums have a column of the block."""
        return column // 2 + column % 2 * _HALF if self.spec.weight is Encoding.BINARY else column


class PackedIndices:
    """The indices of a weight block, unpacked as they are used.

    Attributes:
        stride: words of the weight vectors of a step.

    Args:
        w: uint64 [blocks, W, P, 32], in `Layout.OCTETS`.
        block: index of the block.
    """

    def __init__(self, w: Buffer, block: Expr) -> None:
        self._weights = flat(w)
        self.stride = w.shape[2].value * WORDS
        self._start = emit.let(block * words_per_block(w))

    def __call__(self, at: Expr, piece: int) -> tuple[Expr, Expr]:
        words = emit.load(self._weights, self._start + at + piece * WORDS, lanes=WORDS)
        octets = emit.let(T.reinterpret(f"uint8x{BLOCK}", words))
        return octets & byte_splat(0x0F, BLOCK), octets >> byte_splat(4, BLOCK)

    def prefetch(self, step: Expr) -> None:
        """Prefetch a weight vector of the next run. The order within a run is not that of memory."""
        emit.prefetch(self._weights, self._start + (step + RUN) * self.stride)


class _Sums(Protocol):
    """16-bit sums of the 32 columns of a block."""

    def add(self, piece: int, octets: Expr) -> None:
        """Add a vector of lookups."""

    def widened(self) -> tuple[Expr, Expr]:
        """Two vectors of 16 columns, of 16 or 32 bits; see `ShuffleSums._place`."""


class _UnsignedSums:
    """Sums of the lookups of one plane: of the even columns, then of the odd ones."""

    def __init__(self) -> None:
        self._whole = _zeros("whole", "uint16")
        self._odd = _zeros("odd", "uint16")

    def add(self, _piece: int, octets: Expr) -> None:
        octets = emit.let(octets)
        self._whole.add(T.reinterpret(f"uint16x{_HALF}", octets))
        # Shifts use the ports of the shuffles on Zen; VPMADDUBSW does not.
        self._odd.add(T.reinterpret(f"uint16x{_HALF}", signed_pairs(octets, 0, 1)))

    def widened(self) -> tuple[Expr, Expr]:
        odd = emit.let(self._odd.get())
        # Modulo 2**16 until here.
        even = self._whole.get() - (odd << emit.splat(T.uint16(8), _HALF))
        return emit.cast(even, "int32", _HALF), emit.cast(odd, "int32", _HALF)


class _Differences:
    """Sums of the lookups of the positive plane less those of the negative one, of 16 columns each."""

    def __init__(self) -> None:
        self._sums = [_zeros("sums", "int16") for _ in range(2)]

    def add(self, piece: int, octets: Expr) -> None:
        self._sums[piece].add(signed_pairs(emit.let(octets), 1, -1))

    def widened(self) -> tuple[Expr, Expr]:
        first, second = (sums.get() for sums in self._sums)
        return first, second


class Totals:
    """32-bit sums of 32 columns, in two vectors; zero, or as saved."""

    def __init__(self, kept: Buffer | None = None, row: Expr | None = None) -> None:
        self._registers = [_zeros("total", "int32") for _ in range(2)]
        if kept is not None:
            for half, register in enumerate(self._registers):
                register.set(emit.load(kept, row, half * _HALF, lanes=_HALF))

    def add(self, sums: Sequence[Expr]) -> None:
        """Add two vectors of 16 columns, of 16 or 32 bits."""
        for register, half in zip(self._registers, sums, strict=True):
            register.add(emit.cast(half, "int32", _HALF))

    def get(self) -> list[Expr]:
        """The two vectors, int32."""
        return [register.get() for register in self._registers]

    def save(self, kept: Buffer, row: Expr) -> None:
        """Store them in a row of `kept`, int32 [rows, 32]."""
        for half, register in enumerate(self._registers):
            emit.store(kept, register.get(), row, half * _HALF, lanes=_HALF)


def _in_runs(start: Expr, end: Expr, add: Callable[[Expr, Expr], None]) -> None:
    """Emit `add(first, stop)` for runs of unpaired steps."""
    with emit.loop("run", T.ceildiv(end - start, T.int64(SINGLE_RUN))) as run:
        first = emit.let(start + run * SINGLE_RUN)
        add(first, emit.let(T.min(first + SINGLE_RUN, end)))


def _zeros(name: str, dtype: str) -> emit.Register:
    return emit.Register(name, dtype, _HALF, emit.splat(T.cast(0, dtype), _HALF))


def signed_pairs(octets: Expr, even: int, odd: int) -> Expr:
    """The sums of adjacent bytes times two factors: VPMADDUBSW.

    Args:
        octets: uint8x32.
        even: factor of the even bytes, -128 .. 127.
        odd: factor of the odd bytes.

    Returns:
        int16x16.
    """
    factors = emit.splat(T.int16(odd * 256 + even), _HALF)
    return multiply_bytes(octets, T.reinterpret(f"int8x{BLOCK}", factors), BLOCK)
