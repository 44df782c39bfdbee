"""Rows of 8-bit codes, quantized into a scratch buffer, and their dot products with stored 8-bit rows."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from tbt_compile.codegen.kernels.dot.quantize import code_bytes, row_scale
from tbt_compile.codegen.kernels.dsl import emit, neon
from tbt_compile.codegen.kernels.dsl.loops import for_lanes
from tbt_compile.codegen.kernels.dsl.x86 import multiply_signed_bytes
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding


def code_type(encoding: Encoding) -> str:
    """The type of a code byte: int8 or uint8."""
    return "int8" if encoding is Encoding.INT8 else "uint8"


def write_codes(
    load: emit.Load,
    length: Expr | int,
    encoding: Encoding,
    isa: Isa,
    out: Buffer,
    *at: Expr,
    floor: float | None = None,
) -> Expr:
    """Quantize one row to bytes.

    Args:
        load: loads float32 elements of the row.
        length: number of elements.
        encoding: INT8 or UINT8.
        isa: instruction set.
        out: int8 or uint8; the codes go to out[at, 0 .. length - 1].
        at: indices of the row in `out`.
        floor: the least that the largest magnitude counts as, if any.

    Returns:
        The row's scale, float32.
    """
    scale, inverse = row_scale(load, length, encoding, floor)

    def write(k: Expr, lanes: int) -> None:
        codes = code_bytes(load(k, lanes), lanes, inverse, encoding)
        emit.store(out, T.reinterpret(emit.vector(out.dtype, lanes), codes), *at, k, lanes=lanes)

    for_lanes(length, isa.float_lanes, write)
    return scale


class ByteRows:
    """A scratch buffer for up to `capacity` rows of 8-bit codes, each padded with zeros, and their scales.

    What they are multiplied with is not padded. With `products` the last vector of a row is stored once more,
    with zeros for what the whole vectors before it hold: the rest of a product is then one step, not scalar.
    """

    def __init__(
        self,
        encoding: Encoding,
        isa: Isa,
        length: Expr | int,
        capacity: int,
        padding: int = 0,
        products: bool = False,
    ) -> None:
        self.encoding = encoding
        self.isa = isa
        self.length = length
        self.padding = padding
        self.codes = emit.scratch("codes", (capacity, length + padding), code_type(encoding))
        self.scales = emit.scratch("row_scales", (capacity,), "float32")
        size = self._step(Encoding.INT8)
        self.last: Buffer | None = None
        if products and isinstance(length, int) and length > size and length % size:
            self.last = emit.scratch("last_codes", (capacity, size), self.codes.dtype)

    def first(self, length: Expr) -> ByteRows:
        """The first elements of the rows, in the same buffer; `length` is at most that of the rows."""
        part = copy(self)
        part.length = length
        part.last = None
        return part

    def pack(self, row: Expr, load: emit.Load, floor: float | None = None) -> None:
        """Quantize one row.

        Args:
            row: index of the row in the buffer.
            load: loads its float32 elements.
            floor: the least that the largest magnitude counts as, if any.
        """
        scale = write_codes(load, self.length, self.encoding, self.isa, self.codes, row, floor=floor)
        emit.store(self.scales, scale, row)
        with emit.loop("pad", self.padding) as pad:
            emit.store(self.codes, T.cast(0, self.codes.dtype), row, self.length + pad)
        if self.last is not None:
            size = int(self.last.shape[1])
            with emit.loop("seen", size - self.length % size) as k:
                emit.store(self.last, T.cast(0, self.codes.dtype), row, k)
            with emit.loop("left", self.length % size) as k:
                at = self.length - self.length % size + k
                emit.store(self.last, self.codes[row, at], row, size - self.length % size + k)

    def total(self, row: Expr) -> Expr:
        """The sum of the codes of a row, int32."""
        return self.dot(row, lambda _, lanes: emit.splat(T.int8(1), lanes), Encoding.INT8)

    def dot(self, row: Expr, other: emit.Load, encoding: Encoding) -> Expr:
        """The exact dot product of a row with other codes.

        Args:
            row: index of the row.
            other: `other(k, lanes)` loads the other codes, int8 or uint8.
            encoding: of the other codes, INT8 or UINT8.

        Returns:
            int32.
        """
        lanes = self.isa.float_lanes
        (sums,), (rest,) = self._sums(row, [other], encoding)
        return emit.let(emit.reduce_lanes(sums.get(), lanes, lambda a, b: a + b) + rest.get())

    def dots(self, row: Expr, others: Sequence[emit.Load], encoding: Encoding) -> Expr:
        """The exact dot products of a row with several others.

        Args:
            row: index of the row.
            others: loads the codes of each, int8 or uint8; `rows_at_once(isa)` of them.
            encoding: of the other codes, INT8 or UINT8.

        Returns:
            int32, a vector with one lane for each of the others.
        """
        sums, rests = self._sums(row, others, encoding)
        totals = _sums_of_lanes([one.get() for one in sums], self.isa.float_lanes)
        return emit.let(totals + emit.concat([rest.get() for rest in rests], 1))

    def _sums(
        self, row: Expr, others: Sequence[emit.Load], encoding: Encoding
    ) -> tuple[list[emit.Register], list[emit.Register]]:
        """The dot products with each of the others: int32 vectors to be summed, and a scalar to be added."""
        lanes, size = self.isa.float_lanes, self._step(encoding)
        sums = [emit.Register("sums", "int32", lanes, emit.splat(T.int32(0), lanes)) for _ in others]
        rests = [emit.Register("rest", "int32", 1, T.int32(0)) for _ in others]

        def step(k: Expr, count: int) -> None:
            multiply(emit.let(emit.load(self.codes, row, k, lanes=count)), k, count)

        def multiply(own: Expr, k: Expr | int, count: int) -> None:
            for total, rest, other in zip(sums, rests, others, strict=True):
                theirs = emit.let(other(k, count))
                if count < size:
                    rest.add(emit.cast(own, "int32") * emit.cast(theirs, "int32"))
                elif size > lanes and self.isa.has("avx2"):
                    total.add(multiply_signed_bytes(own, theirs))
                elif size > lanes:
                    total.set(neon.dot_product(total.get(), own, theirs))
                else:
                    total.add(emit.cast(own, "int32", count) * emit.cast(theirs, "int32", count))

        if self.last is None or size != self.last.shape[1]:
            for_lanes(self.length, size, step)
            return sums, rests
        for_lanes(self.length // size * size, size, step)
        own = emit.let(emit.load(self.last, row, 0, lanes=size))
        multiply(own, T.int64(self.length - size), size)
        return sums, rests

    def _step(self, encoding: Encoding) -> int:
        """Codes that one step of a product takes.

        Of byte products, "dotprod" and "signed maddubs" multiply two signed operands.
        """
        signed = self.encoding is encoding is Encoding.INT8
        x86 = self.isa.has("avx2") and self.isa.vector_bits == 256
        return self.isa.float_lanes * (4 if signed and (x86 or self.isa.has("dotprod")) else 1)


def rows_at_once(isa: Isa) -> int:
    """The number of others that `ByteRows.dots` takes: 4 with vectors of 128 bits, else 8."""
    return min(8, isa.float_lanes)


def _sums_of_lanes(vectors: list[Expr], lanes: int) -> Expr:
    """The sum of the lanes of each vector, as a vector; `lanes` is 4 with 4 vectors, or 8 or 16 with 8."""
    if lanes == 16:
        halves = [(emit.shuffle(v, range(8)), emit.shuffle(v, range(8, 16))) for v in map(emit.let, vectors)]
        vectors, lanes = [low + high for low, high in halves], 8
    for _ in range(2):  # as VPHADDD and ADDP add: pairs within each 128 bits
        evens = [lane + side for lane in range(0, lanes, 4) for side in (0, 2, lanes, lanes + 2)]
        pairs = [(emit.let(a), emit.let(b)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        vectors = [
            emit.select(pair, evens) + emit.select(pair, [lane + 1 for lane in evens]) for pair in pairs
        ]
    if lanes == 4:
        return vectors[0]
    halves = [emit.let(vector) for vector in vectors]
    low, high = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
    return emit.select(halves, low) + emit.select(halves, high)
