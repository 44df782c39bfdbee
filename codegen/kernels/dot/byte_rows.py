"""Rows of 8-bit codes, quantized into a scratch buffer, and their dot products with stored 8-bit rows."""

from __future__ import annotations

from tbt_compile.codegen.kernels.dot.quantize import code_bytes, row_scale
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import for_lanes
from tbt_compile.codegen.kernels.dsl.x86 import multiply_signed_bytes
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding


def code_type(encoding: Encoding) -> str:
    """The type of a code byte: int8 or uint8."""
    return "int8" if encoding is Encoding.INT8 else "uint8"


def write_codes(
    load: emit.Load, length: Expr | int, encoding: Encoding, isa: Isa, out: Buffer, *at: Expr
) -> Expr:
    """Quantize one row to bytes.

    Args:
        load: loads float32 elements of the row.
        length: number of elements.
        encoding: INT8 or UINT8.
        isa: instruction set.
        out: int8 or uint8; the codes go to out[at, 0 .. length - 1].
        at: indices of the row in `out`.

    Returns:
        The row's scale, float32.
    """
    scale, inverse = row_scale(load, length, encoding)

    def write(k: Expr, lanes: int) -> None:
        codes = code_bytes(load(k, lanes), lanes, inverse, encoding)
        emit.store(out, T.reinterpret(emit.vector(out.dtype, lanes), codes), *at, k, lanes=lanes)

    for_lanes(length, isa.float_lanes, write)
    return scale


class ByteRows:
    """A scratch buffer for up to `capacity` rows of 8-bit codes, each padded with zeros, and their scales."""

    def __init__(
        self, encoding: Encoding, isa: Isa, length: Expr | int, capacity: int, padding: int = 0
    ) -> None:
        self.encoding = encoding
        self.isa = isa
        self.length = length
        self.padding = padding
        self.codes = emit.scratch("codes", (capacity, length + padding), code_type(encoding))
        self.scales = emit.scratch("row_scales", (capacity,), "float32")

    def pack(self, row: Expr, load: emit.Load) -> None:
        """Quantize one row."""
        scale = write_codes(load, self.length, self.encoding, self.isa, self.codes, row)
        emit.store(self.scales, scale, row)
        with emit.loop("pad", self.padding) as pad:
            emit.store(self.codes, T.cast(0, self.codes.dtype), row, self.length + pad)

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
        signed = self.encoding is encoding is Encoding.INT8
        bytewise = signed and self.isa.has("avx2") and self.isa.vector_bits == 256
        lanes = self.isa.float_lanes
        size = lanes * (4 if bytewise else 1)
        sums = emit.Register("sums", "int32", lanes, emit.splat(T.int32(0), lanes))
        rest = emit.Register("rest", "int32", 1, T.int32(0))

        def step(k: Expr, count: int) -> None:
            own, theirs = emit.load(self.codes, row, k, lanes=count), other(k, count)
            if bytewise and count == size:
                sums.add(multiply_signed_bytes(emit.let(own), emit.let(theirs)))
                return
            products = emit.cast(own, "int32", count) * emit.cast(theirs, "int32", count)
            (sums if count == size else rest).add(products)

        for_lanes(self.length, size, step)
        return emit.let(emit.reduce_lanes(sums.get(), lanes, lambda a, b: a + b) + rest.get())
