"""Attention over 8-bit keys and values: rows of D codes followed by the row's float32 scale in 4 bytes.

    scores[b, h, q, t] = float(sum_d cq * ck) * (sq * sk[t])
    out[b, h, q, d]    = sp * sum_t cp[t] * (sv[t] * cv[t, d])      in float32, t ascending

Every scale is found at run time, one per token.
"""

from __future__ import annotations

from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.kernels.attention_spec import AttentionSpec
from tbt_compile.codegen.kernels.byterows import ByteRows, code_type
from tbt_compile.codegen.kernels.loops import chunks, for_lanes, row_of, share_heads
from tbt_compile.codegen.layouts import SCALE_BYTES
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T
from tbt_compile.encoding import Encoding

_CHUNK_ROWS = 8


def qk_int8(spec: AttentionSpec) -> PrimFunc:
    """Attention scores with 8-bit queries and keys.

    Arguments:
        q: float32 [B, H * groups, Q, D]
        q_scale: float32 [1], not read
        k: int8 [B, H, T, D + 4] from `pack_keys`
        k_scale: float32 [1], not read
        scores: float32 [B, H * groups, Q, T], the output
    """
    return emit.function("qk_int8", lambda: _qk(spec))


def pv_int8(spec: AttentionSpec) -> PrimFunc:
    """Weighted sums of 8-bit values with 8-bit weights.

    Arguments:
        p: float32 [B, H * groups, Q, T]
        p_scale: float32 [1], not read
        v: int8 [B, H, T, D + 4] from `pack_values`
        v_scale: float32 [1], not read
        out: float32 [B, H * groups, Q, D], the output
    """
    return emit.function("pv_int8", lambda: _pv(spec))


def _qk(spec: AttentionSpec) -> None:
    batch, heads, queries, tokens = (emit.symbol(name) for name in ("b", "h", "q", "t"))
    q = emit.argument("q", (batch, heads * spec.groups, queries, spec.d), "float32")
    emit.argument("q_scale", (1,), "float32")
    k = emit.argument("k", (batch, heads, tokens, spec.d + SCALE_BYTES), "int8")
    emit.argument("k_scale", (1,), "float32")
    scores = emit.argument("scores", (batch, heads * spec.groups, queries, tokens), "float32")

    def head(b: Expr, h: Expr) -> None:
        rows = ByteRows(spec.left, spec.isa, spec.d, _CHUNK_ROWS)

        def chunk(first: Expr, count: Expr) -> None:
            with emit.loop("row", count) as row:
                rows.pack(row, row_of(q, b, h, first + row))
            with emit.loop("t", tokens) as t:
                at = (b, h // spec.groups, t)
                scale = _stored_scale(k, spec, *at)
                with emit.loop("row", count) as row:
                    total = rows.dot(row, lambda d, lanes: _codes(k, spec.right, lanes, *at, d))
                    score = T.cast(total, "float32") * (rows.scales[row] * scale)
                    emit.store(scores, score, b, h, first + row, t)

        chunks(queries, _CHUNK_ROWS, chunk)

    share_heads(batch * heads * queries * tokens * spec.d, batch, heads * spec.groups, head)


def _pv(spec: AttentionSpec) -> None:
    batch, heads, queries, tokens = (emit.symbol(name) for name in ("b", "h", "q", "t"))
    p = emit.argument("p", (batch, heads * spec.groups, queries, tokens), "float32")
    emit.argument("p_scale", (1,), "float32")
    v = emit.argument("v", (batch, heads, tokens, spec.d + SCALE_BYTES), "int8")
    emit.argument("v_scale", (1,), "float32")
    out = emit.argument("out", (batch, heads * spec.groups, queries, spec.d), "float32")

    def head(b: Expr, h: Expr) -> None:
        rows = ByteRows(spec.left, spec.isa, tokens, _CHUNK_ROWS)

        def chunk(first: Expr, count: Expr) -> None:
            with emit.loop("row", count) as row:
                rows.pack(row, row_of(p, b, h, first + row))
                scale = emit.let(rows.scales[row])

                def weigh(d: Expr, lanes: int) -> None:
                    zero = emit.splat(T.float32(0), lanes)
                    total = emit.Register("total", "float32", lanes, zero)
                    with emit.loop("t", tokens) as t:
                        at = (b, h // spec.groups, t)
                        codes = emit.cast(_codes(v, spec.right, lanes, *at, d), "float32", lanes)
                        value = emit.splat(_stored_scale(v, spec, *at), lanes) * codes
                        weight = T.cast(rows.codes[row, t], "float32")
                        total.add(emit.splat(weight, lanes) * value)
                    result = emit.splat(scale, lanes) * total.get()
                    emit.store(out, result, b, h, first + row, d, lanes=lanes)

                for_lanes(spec.d, min(4 * spec.isa.float_lanes, _power_of_two(spec.d)), weigh)

        chunks(queries, _CHUNK_ROWS, chunk)

    share_heads(batch * heads * queries * tokens * spec.d, batch, heads * spec.groups, head)


def _codes(rows: Buffer, encoding: Encoding, lanes: int, *at: Expr) -> Expr:
    stored = emit.load(rows, *at, lanes=lanes)
    return emit.cast(T.reinterpret(emit.vector(code_type(encoding), lanes), stored), "int32", lanes)


def _stored_scale(rows: Buffer, spec: AttentionSpec, *at: Expr) -> Expr:
    return emit.let(T.reinterpret("float32", emit.load(rows, *at, spec.d, lanes=SCALE_BYTES)))


def _power_of_two(size: int) -> int:
    return 1 << (size.bit_length() - 1)
