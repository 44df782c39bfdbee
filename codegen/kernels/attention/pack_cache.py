"""Pack keys and values to 1, 2 or 8 bits per element, and append them to a packed cache.

Each is packed along its reduction dimension: keys along the features D, values along the tokens T. Scales are
learned or per token, so appending token by token gives the same bits as packing all tokens at once. 8-bit
codes are stored as one row per token: D bytes of codes, then the float32 scale of the row, little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.attention.spec import Heads
from tbt_compile.codegen.kernels.dot.byte_rows import write_codes
from tbt_compile.codegen.kernels.dot.quantize import RowFormat, mean_of_row, pack_row, plane_bits
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import for_lanes
from tbt_compile.codegen.layouts import SCALE_BYTES, words_for
from tbt_compile.codegen.target.isa import WORD_BITS, Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T
from tbt_compile.encoding import Encoding

_NEON_LANES = 8
"""Features packed at a time on AArch64: two vectors of floats, four vectors of words."""


@dataclass(frozen=True)
class PackSpec:
    """Keys or values of attention heads.

    Attributes:
        d: head dimension.
        encoding: any quantized encoding.
        center: whether to subtract each token's mean over D, for signed 1 and 2 bit encodings.
        isa: instruction set to schedule for.
        heads_last: whether the floats are [B, T, H, D].
    """

    d: int
    encoding: Encoding
    center: bool
    isa: Isa
    heads_last: bool = False

    @property
    def row_length(self) -> int:
        """Number of elements of a packed key or an 8-bit value."""
        if self.encoding.dynamic:
            return self.d + SCALE_BYTES
        return words_for(self.d) * self.encoding.planes

    @property
    def row_type(self) -> str:
        """The dtype of the elements of a packed key or an 8-bit value."""
        return "int8" if self.encoding.dynamic else "uint64"

    @property
    def row_format(self) -> RowFormat:
        """How the D elements of one token are quantized."""
        return RowFormat(self.encoding, self.isa, self.center)


def pack_keys(spec: PackSpec) -> PrimFunc:
    """Pack keys along D.

    Arguments:
        x: float32 [B, H, T, D] or, with the heads last, [B, T, H, D]
        scale: float32 [1]; not read for 8-bit encodings
        out: uint64 [B, H, T, P * ceil(D / 64)], planes major; for 8 bits int8 [B, H, T, D + 4]
    """
    return emit.function("pack_keys", lambda: _pack_rows(spec))


def pack_values(spec: PackSpec) -> PrimFunc:
    """Pack values along T.

    Arguments:
        x: float32 [B, H, T, D] or, with the heads last, [B, T, H, D]
        scale: float32 [1]; not read for 8-bit encodings
        out: uint64 [B, H, ceil(T / 64), P, D], token t in bit t % 64 of word t // 64; for 8 bits as
            `pack_keys`
    """
    if spec.encoding.dynamic:
        return emit.function("pack_values", lambda: _pack_rows(spec))
    return emit.function("pack_values", lambda: _pack_columns(spec))


def append_keys(spec: PackSpec) -> PrimFunc:
    """Append Q keys, or 8-bit values, to `past` packed ones, in place.

    Arguments:
        new: float32 [B, H, Q, D], or [B, Q, H, D]
        scale: float32 [1]; not read for 8-bit encodings
        past: int64 by value
        out: as the output of `pack_keys`, T = past + Q; the first `past` tokens are not written
    """
    return emit.function("append_keys", lambda: _pack_rows(spec, appended=True))


def append_values(spec: PackSpec) -> PrimFunc:
    """Append Q values of 1 or 2 bits to `past` packed ones, in place.

    Arguments:
        new: float32 [B, H, Q, D], or [B, Q, H, D]
        scale: float32 [1]
        past: int64 by value
        out: uint64 [B, H, ceil((past + Q) / 64), P, D]; the bits of the first `past` tokens are kept
    """
    return emit.function("append_values", lambda: _append_columns(spec))


def _pack_rows(spec: PackSpec, appended: bool = False) -> None:
    batch, heads, tokens = (emit.symbol(name) for name in ("b", "h", "t"))
    x = Heads("x", batch, heads, tokens, spec.d, spec.heads_last)
    scale = emit.argument("scale", (1,), "float32")
    past = emit.scalar_argument("past") if appended else T.int64(0)
    words = words_for(spec.d)
    rows = emit.symbol("rows") if appended else tokens
    out = emit.cache_argument("out", (batch, heads, rows, spec.row_length), spec.row_type)
    a = emit.let(scale[0])
    with emit.loop("b", batch) as b, emit.loop("h", heads) as h, emit.loop("t", tokens) as t:
        load = x.row(b, h, t)

        def store(word: Expr, planes: list[Expr]) -> None:
            for index, plane in enumerate(planes):
                emit.store(out, plane, b, h, past + t, index * words + word)

        if spec.encoding.dynamic:
            row_scale = write_codes(load, spec.d, spec.encoding, spec.isa, out, b, h, past + t)
            emit.store(out, T.reinterpret("int8x4", row_scale), b, h, past + t, spec.d, lanes=SCALE_BYTES)
        else:
            pack_row(load, spec.d, a, spec.row_format, store)


def _pack_columns(spec: PackSpec) -> None:
    batch, heads, tokens, words = (emit.symbol(name) for name in ("b", "h", "t", "tw"))
    x = Heads("x", batch, heads, tokens, spec.d, spec.heads_last)
    scale = emit.argument("scale", (1,), "float32")
    out = emit.argument("out", (batch, heads, words, spec.encoding.planes, spec.d), "uint64")
    a = emit.let(scale[0])
    with emit.loop("b", batch) as b, emit.loop("h", heads) as h, emit.loop("word", words) as word:
        first = word * WORD_BITS
        count = emit.let(T.min(T.int64(WORD_BITS), tokens - first))
        _fill_word(spec, x, a, out, (b, h), first, count, word, T.int64(0), None)


def _append_columns(spec: PackSpec) -> None:
    batch, heads, fresh = (emit.symbol(name) for name in ("b", "h", "q"))
    words = emit.symbol("tw")
    new = Heads("new", batch, heads, fresh, spec.d, spec.heads_last)
    scale = emit.argument("scale", (1,), "float32")
    past = emit.scalar_argument("past")
    out = emit.cache_argument("out", (batch, heads, words, spec.encoding.planes, spec.d), "uint64")
    a = emit.let(scale[0])
    full_words = emit.let(past // WORD_BITS)
    with (
        emit.loop("b", batch) as b,
        emit.loop("h", heads) as h,
        emit.loop("more", words - full_words) as index,
    ):
        word = emit.let(full_words + index)
        begin = emit.let(T.max(T.int64(0), past - word * WORD_BITS))
        first = emit.let(word * WORD_BITS + begin - past)
        count = emit.let(T.min(WORD_BITS - begin, fresh - first))

        def start(plane: int, d: Expr, lanes: int) -> Expr:
            zero = emit.splat(T.uint64(0), lanes)
            return T.if_then_else(begin > 0, emit.load(out, b, h, word, plane, d, lanes=lanes), zero)

        _fill_word(spec, new, a, out, (b, h), first, count, word, begin, start)


def _fill_word(
    spec: PackSpec,
    x: Heads,
    scale: Expr,
    out: Buffer,
    head: tuple[Expr, Expr],
    first: Expr,
    count: Expr,
    word: Expr,
    begin: Expr,
    start: emit.Start | None,
) -> None:
    """Set bits of one word of every feature and plane, token by token.

    Args:
        spec: the values.
        x: the floats.
        scale: float32, the learned scale.
        out: uint64 [B, H, words, P, D].
        head: batch item and head.
        first: the first token of x to pack.
        count: number of tokens to pack, at most 64.
        word: index of the word.
        begin: bit of the first token.
        start: the bits of the word below `begin`; None for zeros.
    """
    means = emit.scratch("means", (WORD_BITS,), "float32")
    centred = spec.row_format.centred
    if centred:
        with emit.loop("t", count) as t:
            emit.store(means, mean_of_row(x.row(*head, first + t), spec.d), t)

    def fill(d: Expr, lanes: int) -> None:
        planes = range(spec.encoding.planes)
        zero = emit.splat(T.uint64(0), lanes)
        words = [
            emit.Register("word", "uint64", lanes, start(plane, d, lanes) if start else zero)
            for plane in planes
        ]
        with emit.loop("t", count) as t:
            values = emit.let(x.row(*head, first + t)(d, lanes))
            truths = plane_bits(values, lanes, means[t] if centred else None, scale, spec.encoding)
            bit = emit.let(T.uint64(1) << T.cast(begin + t, "uint64"))
            for register, truth in zip(words, truths, strict=True):
                register.set(register.get() | T.Select(truth, emit.splat(bit, lanes), zero))
        for plane in planes:
            emit.store(out, words[plane].get(), *head, word, plane, d, lanes=lanes)

    for_lanes(spec.d, _NEON_LANES if spec.isa.has("neon") else spec.isa.word_lanes, fill)
