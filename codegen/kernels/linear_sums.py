"""8-bit activations times 1 or 2 bit weights by table look-up, for AArch64 CPUs without dot products of bytes.

Four neighbouring activations have 16 sums of some of them, and four bits of a weight plane say which. So a
table of 16 bytes gives four products at once, and one TBL looks up in two such tables:

    load     LD4 takes one word of 8 columns apart: a vector has the same two bytes of each. The even bytes
             belong to other activations than the odd ones, and have a table of their own.
    number   SRI or BIF puts four bits of every byte under bits that stay, which tell odd bytes from even ones.
    look up  TBL, in 32 bytes: the table of the even bytes and that of the odd ones.
    add      UADALP adds the two bytes of each column to its sum in 16 bits.

A table counts from its smallest sum, so that its numbers go from 0 to sum |x|, which is mostly below 256.
Where it is not, the word is multiplied in two steps (or four), each with half (a quarter) of the activations.
"""

from __future__ import annotations

from tbt_compile.codegen.isa import WORD_BITS
from tbt_compile.codegen.kernels import emit, neon
from tbt_compile.codegen.kernels.byterows import ByteRows
from tbt_compile.codegen.kernels.linear_spec import LinearSpec
from tbt_compile.codegen.kernels.lookup_tables import COLUMNS, byte_splat, counting
from tbt_compile.codegen.kernels.rows import Finish
from tbt_compile.codegen.layouts import words_for
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

CHUNK_ROWS = 8
"""Rows whose tables are kept; they fit the second-level cache."""
_GROUP = 4  # activations of a table
_GROUPS = WORD_BITS // _GROUP
_ENTRY = 2 * COLUMNS  # bytes that one TBL looks up in
_LARGEST = 255
_PER_RUN = 16  # steps: 8 look-ups of a plane add at most 8 * 2 * 255 to a sum in 16 bits
_VECTORS = WORD_BITS // 16  # of the bytes of a word of 8 columns


class SumProduct:
    """A chunk of rows as tables of sums, and its products with weight blocks."""

    work = 4
    together = 2

    def __init__(self, spec: LinearSpec, _scale: Expr) -> None:
        self.spec = spec
        self.words = words_for(spec.k)
        self.rows = ByteRows(
            spec.activation, spec.isa, spec.k, CHUNK_ROWS, padding=self.words * WORD_BITS - spec.k
        )
        # Two codes of 7 bits and a sign always fit a table, of 8 bits only one.
        self.most_parts = 2 if spec.activation is Encoding.INT8 else _GROUP
        most = self.words * self.most_parts
        self.known = emit.scratch("known", (CHUNK_ROWS,), "int32")
        self.steps = emit.scratch("steps", (CHUNK_ROWS,), "int64")
        self.word_of = emit.scratch("word_of", (CHUNK_ROWS, most), "int64")
        self.mine = emit.scratch("mine", (_GROUP,), "uint8")
        self.tables = emit.scratch("tables", (CHUNK_ROWS, most, _GROUPS * COLUMNS), "uint8")

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantizes one row and fills its tables."""
        self.rows.pack(row, load)
        magnitudes = emit.Register("magnitudes", "int32", 1, T.int32(0))
        steps = emit.Register("step", "int64", 1, T.int64(0))
        with emit.loop("word", self.words) as word:
            sizes = self._magnitudes(row, word * WORD_BITS, WORD_BITS)
            pairs = _pair_sums(emit.cast(sizes, "uint16", WORD_BITS), WORD_BITS)
            groups = _pair_sums(pairs, WORD_BITS // 2)
            magnitudes.add(T.cast(emit.reduce_lanes(groups, _GROUPS, lambda a, b: a + b), "int32"))
            parts = self._parts(_largest(pairs, WORD_BITS // 2), _largest(groups, _GROUPS))
            with emit.loop("part", parts.get()) as part:
                at = emit.let(steps.get())
                emit.store(self.word_of, word, row, at)
                for index in range(_GROUP):
                    mine = T.int64(index) * parts.get() // _GROUP == part
                    emit.store(self.mine, T.Select(mine, T.uint8(_LARGEST), T.uint8(0)), index)
                self._fill(row, word, at)
                steps.add(T.int64(1))
        emit.store(self.steps, steps.get(), row)
        if self.spec.weight is Encoding.BINARY:
            known = magnitudes.get()
        else:  # what the negative activations of a row amount to
            known = (magnitudes.get() - self.rows.total(row)) >> T.int32(1)
        emit.store(self.known, known, row)

    def _parts(self, largest_pair: Expr, largest_group: Expr) -> emit.Register:
        """Steps for a word, so that every sum fits a byte."""
        most = T.uint16(_LARGEST)
        two = T.int64(2)
        some = two if self.most_parts == 2 else T.Select(largest_pair <= most, two, T.int64(_GROUP))
        return emit.Register("parts", "int64", 1, T.Select(largest_group <= most, T.int64(1), some))

    def _fill(self, row: Expr, word: Expr, step: Expr) -> None:
        """The tables of a word, with those activations of each group that are `mine`.

        They are in the order in which they are used: for the two bytes of a vector the lower four bits, then
        the upper ones. A weight bit adds a positive activation, and takes a negative one away.
        """
        with (
            emit.loop("vector", _VECTORS) as vector,
            emit.loop("upper", 2) as upper,
            emit.loop("odd", 2) as odd,
        ):
            first = emit.let(word * WORD_BITS + vector * 16 + odd * 8 + upper * _GROUP)
            chosen = emit.let(T.reinterpret(neon.OCTETS, counting()))
            table: Expr = byte_splat(0)
            for index in range(_GROUP):
                size = emit.let(self._magnitudes(row, first + index, 1) & self.mine[index])
                bit: Expr = T.uint8(1 << index)
                if self.spec.activation is Encoding.INT8:
                    bit = T.Select(self.rows.codes[row, first + index] < T.int8(0), T.uint8(0), bit)
                adds = (chosen & byte_splat(1 << index)) == emit.splat(bit, COLUMNS)
                table = table + T.Select(adds, emit.splat(size, COLUMNS), byte_splat(0))
            group = (vector * 2 + upper) * 2 + odd
            emit.store(self.tables, table, row, step, group * COLUMNS, lanes=COLUMNS)

    def _magnitudes(self, row: Expr, k: Expr, lanes: int) -> Expr:
        codes = emit.load(self.rows.codes, row, k, lanes=lanes)
        if self.spec.activation is Encoding.UINT8:
            return emit.let(codes)
        return emit.let(T.reinterpret(emit.vector("uint8", lanes), T.abs(codes)))

    def multiply(self, count: Expr, w: Buffer, block: Expr, blocks: int, finish: Finish) -> None:
        """The products of the first `count` rows with some interleaved weight blocks."""
        lanes, planes = self.spec.isa.block, self.spec.weight.planes
        each = [(part, plane) for plane in range(planes) for part in range(blocks)]
        zero = emit.splat(T.int32(0), lanes)
        with emit.loop("row", count) as row:
            totals = {key: emit.Register("total", "int32", lanes, zero) for key in each}
            numbers = [_Numbers() for _ in range(blocks)]
            steps = emit.let(self.steps[row])
            with emit.loop("run", T.ceildiv(steps, _PER_RUN)) as run:
                sums = {
                    key: emit.Register("sums", "uint16", lanes, emit.splat(T.uint16(0), lanes))
                    for key in each
                }
                with emit.loop("step", T.min(T.int64(_PER_RUN), steps - run * _PER_RUN)) as step:
                    at = emit.let(run * _PER_RUN + step)
                    word = emit.let(self.word_of[row, at])
                    for plane in range(planes):
                        words = [
                            emit.let(emit.load(w, block + part, word, plane, 0, lanes=lanes))
                            for part in range(blocks)
                        ]
                        of_plane = [sums[part, plane] for part in range(blocks)]
                        self._step(row, at, words, numbers, of_plane)
                for key in each:
                    totals[key].add(emit.cast(sums[key].get(), "int32", lanes))
            scale, known = emit.let(self.rows.scales[row]), emit.splat(emit.let(self.known[row]), lanes)
            for part in range(blocks):
                *positive, negative = (totals[part, plane].get() for plane in range(planes))
                total = known - negative * emit.splat(T.int32(2), lanes)
                for other in positive:
                    total = total + other
                finish(row, T.int64(part * lanes), lanes, emit.let(total), scale)

    def _step(
        self,
        row: Expr,
        step: Expr,
        words: list[Expr],
        numbers: list[_Numbers],
        sums: list[emit.Register],
    ) -> None:
        """Looks up one word of a plane in every block."""
        octets = [[_same_octets(word, vector) for vector in range(_VECTORS)] for word in words]
        for vector in range(_VECTORS):
            for upper in (True, False):
                start = (2 * vector + upper) * _ENTRY
                even, odd = (
                    emit.let(emit.load(self.tables, row, step, start + half * COLUMNS, lanes=COLUMNS))
                    for half in range(2)
                )
                for part, of_part in enumerate(octets):
                    selected = numbers[part].of(of_part[vector], upper)
                    sums[part].add(neon.pair_sums(neon.look_up(even, odd, selected)))


class _Numbers:
    """The numbers of table entries, 16 for odd bytes and 0 for even ones plus four bits of weights.

    A register keeps what is added, and only its lower half is replaced: one instruction for each vector.
    """

    def __init__(self) -> None:
        start = emit.splat(T.uint64(0x1000100010001000), 2)
        self.kept = emit.Register("numbers", "uint8", COLUMNS, T.reinterpret(neon.OCTETS, start))

    def of(self, octets: Expr, upper: bool) -> Expr:
        """The numbers that the upper or the lower four bits of bytes stand for."""
        kept = self.kept.get()
        if upper:
            self.kept.set(neon.shift_insert(kept, T.reinterpret(neon.OCTETS, octets)))
            return self.kept.get()
        half = COLUMNS // 2
        kept = T.reinterpret(f"uint16x{half}", kept) & emit.splat(T.uint16(0xF0F0), half)
        return T.reinterpret(neon.OCTETS, emit.let((octets & emit.splat(T.uint16(0x0F0F), half)) | kept))


def _same_octets(word: Expr, vector: int) -> Expr:
    """Bytes 2 * vector and 2 * vector + 1 of the words of 8 columns."""
    parts = T.reinterpret(f"uint16x{8 * _VECTORS}", word)
    return emit.let(emit.pick(parts, range(vector, 8 * _VECTORS, _VECTORS)))


def _pair_sums(values: Expr, lanes: int) -> Expr:
    values = emit.let(values)
    return emit.let(emit.pick(values, range(0, lanes, 2)) + emit.pick(values, range(1, lanes, 2)))


def _largest(values: Expr, lanes: int) -> Expr:
    return emit.reduce_lanes(values, lanes, T.max)
