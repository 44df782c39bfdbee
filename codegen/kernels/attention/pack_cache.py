"""Keys and values in packed form, so that a cache stays at 1, 2 or 8 bits per element.

Keys are packed along the head dimension D (what Q.K^T sums over), values along the sequence T (what P.V sums
over). Their scales are learned, so packing when a token is appended gives the same bits as packing everything
at once. 8-bit codes keep one row per token: D bytes of codes and then the row's float32 scale in 4 bytes,
little-endian.
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
"""Features of which words are filled at a time on AArch64: two vectors of floats and four of words."""


@dataclass(frozen=True)
class PackSpec:
    """Keys or values of attention heads.

    Attributes:
        d: head dimension.
        encoding: any quantized encoding.
        center: subtract each token's mean over D, for signed 1 and 2 bit encodings.
        isa: instruction set to schedule for.
        heads_last: the floats come as [B, T, H, D].
    """

    d: int
    encoding: Encoding
    center: bool
    isa: Isa
    heads_last: bool = False

    @property
    def row_length(self) -> int:
        """Elements of a packed key, or 8-bit value."""
        if self.encoding.dynamic:
            return self.d + SCALE_BYTES
        return words_for(self.d) * self.encoding.planes

    @property
    def row_type(self) -> str:
        """The type of those elements."""
        return "int8" if self.encoding.dynamic else "uint64"

    @property
    def row_format(self) -> RowFormat:
        """How one token's D elements become codes."""
        return RowFormat(self.encoding, self.isa, self.center)


def pack_keys(spec: PackSpec) -> PrimFunc:
    """Packs keys along D.

    Arguments:
        x: float32 [B, H, T, D] or, with the heads last, [B, T, H, D]
        scale: float32 [1]; not read for 8-bit encodings
        out: uint64 [B, H, T, P * ceil(D / 64)], planes major; for 8 bits int8 [B, H, T, D + 4]
    """
    return emit.function("pack_keys", lambda: _pack_rows(spec))


def pack_values(spec: PackSpec) -> PrimFunc:
    """Packs values along T.

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
    """Packs Q new keys, or 8-bit values, behind `past` packed ones that are in place.

    Arguments:
        new: float32 [B, H, Q, D], or [B, Q, H, D]
        scale: float32 [1]; not read for 8-bit encodings
        past: int64 by value
        out: as `pack_keys` makes it, T = past + Q; its first tokens are left as they are
    """
    return emit.function("append_keys", lambda: _pack_rows(spec, appended=True))


def append_values(spec: PackSpec) -> PrimFunc:
    """Packs Q new values of 1 or 2 bits behind `past` packed ones that are in place.

    Arguments:
        new: float32 [B, H, Q, D], or [B, Q, H, D]
        scale: float32 [1]
        past: int64 by value
        out: uint64 [B, H, ceil((past + Q) / 64), P, D]; bits of its first tokens are left as they are
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
    kept = emit.let(past // WORD_BITS)
    with (
        emit.loop("b", batch) as b,
        emit.loop("h", heads) as h,
        emit.loop("more", words - kept) as more,
    ):
        word = emit.let(kept + more)
        begin = emit.let(T.max(T.int64(0), past - word * WORD_BITS))
        first = emit.let(word * WORD_BITS + begin - past)
        count = emit.let(T.min(WORD_BITS - begin, fresh - first))

        def start(plane: int, d: Expr, lanes: int) -> Expr:
            nothing = emit.splat(T.uint64(0), lanes)
            return T.if_then_else(begin > 0, emit.load(out, b, h, word, plane, d, lanes=lanes), nothing)

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
    """Fills bits of one word of every feature and plane, one token after the other.

    Args:
        spec: the values.
        x: the floats.
        scale: float32, the learned scale.
        out: uint64 [B, H, words, P, D].
        head: item of the batch, and head.
        first: the first token of x that is packed.
        count: tokens that are packed, at most 64.
        word: number of the word.
        begin: bit of the first of them.
        start: the word's bits before that; None for zeros.
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
