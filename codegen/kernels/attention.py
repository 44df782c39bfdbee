"""Scores Q.K^T and outputs P.V over packed keys and values, by popcount.

    scores[b, h, q, t] = float(sum_d cq * ck) * (sq * sk)
    out[b, h, q, d]    = float(sum_t cp * cv) * (sp * sv)

Q and P arrive as floats and are quantized here; K and V arrive packed (`attention_pack`). 8-bit operands are
the business of `attention_int8`.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.kernels.attention_int8 import pv_int8, qk_int8
from tbt_compile.codegen.kernels.attention_spec import AttentionSpec
from tbt_compile.codegen.kernels.bitproduct import bit_product
from tbt_compile.codegen.kernels.loops import chunks, row_of, share_heads
from tbt_compile.codegen.kernels.rows import PackedRows, store_existing
from tbt_compile.codegen.kernels.tile import Columns
from tbt_compile.codegen.layouts import words_for
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T
from tbt_compile.errors import LoweringError

_CHUNK_ROWS = 16
_MOST_SHUFFLED = 8


def qk(spec: AttentionSpec) -> PrimFunc:
    """Attention scores; with 8-bit keys, `qk_int8`.

    Arguments:
        q: float32 [B, H * groups, Q, D]
        q_scale: float32 [1]
        k: uint64 [B, H, T, P * ceil(D / 64)] from `pack_keys`
        k_scale: float32 [1]
        scores: float32 [B, H * groups, Q, T], the output

    Raises:
        LoweringError: one operand has 8 bits and the other has not.
    """
    if _both_dynamic(spec):
        return qk_int8(spec)
    return emit.function("qk", lambda: _qk(spec))


def pv(spec: AttentionSpec) -> PrimFunc:
    """Weighted sums of values; with 8-bit values, `pv_int8`.

    Arguments:
        p: float32 [B, H * groups, Q, T]
        p_scale: float32 [1]
        v: uint64 [B, H, ceil(T / 64), P, D] from `pack_values` or `append_values`
        v_scale: float32 [1]
        out: float32 [B, H * groups, Q, D], the output

    Raises:
        LoweringError: one operand has 8 bits and the other has not.
    """
    if _both_dynamic(spec):
        return pv_int8(spec)
    return emit.function("pv", lambda: _pv(spec))


def _both_dynamic(spec: AttentionSpec) -> bool:
    if spec.left.dynamic != spec.right.dynamic:
        raise LoweringError(
            f"attention of {spec.left.name} with {spec.right.name}: "
            "expected both operands at 8 bits, or neither"
        )
    return spec.left.dynamic


def _qk(spec: AttentionSpec) -> None:
    batch, heads, queries, tokens = (emit.symbol(name) for name in ("b", "h", "q", "t"))
    width = words_for(spec.d) * spec.right.planes
    q = emit.argument("q", (batch, heads * spec.groups, queries, spec.d), "float32")
    q_scale = emit.argument("q_scale", (1,), "float32")
    k = emit.argument("k", (batch, heads, tokens, width), "uint64")
    k_scale = emit.argument("k_scale", (1,), "float32")
    scores = emit.argument("scores", (batch, heads * spec.groups, queries, tokens), "float32")
    scale = emit.let(q_scale[0])
    product_scale = emit.let(scale * k_scale[0])
    block = spec.isa.block

    def head(b: Expr, h: Expr) -> None:
        rows = PackedRows(bit_product(spec.left, spec.right), spec.isa, spec.d, _CHUNK_ROWS)
        keys = emit.scratch("keys", (width, block), "uint64")

        def chunk(first: Expr, count: Expr) -> None:
            with emit.loop("row", count) as row:
                load = row_of(q, b, h, first + row)
                rows.pack(row, load, scale, spec.center_left)
            with emit.loop("block", T.ceildiv(tokens, block)) as index:
                start = emit.let(index * block)
                _transpose_keys(
                    k, (b, h // spec.groups), start, T.min(T.int64(block), tokens - start), keys, spec
                )
                rows.multiply(count, _key_columns(keys, rows.words), block, _finish(first, start))

        def _finish(first: Expr, start: Expr) -> Callable[[Expr, Expr, int, Expr, Expr], None]:
            def finish(row: Expr, offset: Expr, lanes: int, total: Expr, _: Expr) -> None:
                t = start + offset
                at = (b, h, first + row)
                store_existing(
                    t + lanes <= tokens,
                    lanes,
                    tokens - t,
                    total,
                    lambda values: emit.store(
                        scores, _scaled(values, product_scale, lanes), *at, t, lanes=lanes
                    ),
                    lambda lane, value: emit.store(scores, _scaled(value, product_scale, 1), *at, t + lane),
                )

            return finish

        chunks(queries, _CHUNK_ROWS, chunk)

    share_heads(batch * heads * queries * tokens * spec.d, batch, heads * spec.groups, head)


def _pv(spec: AttentionSpec) -> None:
    batch, heads, queries, tokens = (emit.symbol(name) for name in ("b", "h", "q", "t"))
    p = emit.argument("p", (batch, heads * spec.groups, queries, tokens), "float32")
    p_scale = emit.argument("p_scale", (1,), "float32")
    words = emit.symbol("tw")
    v = emit.argument("v", (batch, heads, words, spec.right.planes, spec.d), "uint64")
    v_scale = emit.argument("v_scale", (1,), "float32")
    out = emit.argument("out", (batch, heads * spec.groups, queries, spec.d), "float32")
    scale = emit.let(p_scale[0])
    product_scale = emit.let(scale * v_scale[0])

    def head(b: Expr, h: Expr) -> None:
        rows = PackedRows(bit_product(spec.left, spec.right), spec.isa, tokens, _CHUNK_ROWS)

        def columns_at(offset: Expr, lanes: int) -> Columns:
            at = (b, h // spec.groups)
            return Columns(lambda word, plane: emit.load(v, *at, word, plane, offset, lanes=lanes), lanes)

        def chunk(first: Expr, count: Expr) -> None:
            def finish(row: Expr, offset: Expr, lanes: int, total: Expr, _: Expr) -> None:
                value = _scaled(total, product_scale, lanes)
                emit.store(out, value, b, h, first + row, offset, lanes=lanes)

            with emit.loop("row", count) as row:
                rows.pack(row, row_of(p, b, h, first + row), scale, spec.center_left)
            rows.multiply(count, columns_at, spec.d, finish)

        chunks(queries, _CHUNK_ROWS, chunk)

    share_heads(batch * heads * queries * tokens * spec.d, batch, heads * spec.groups, head)


def _scaled(total: Expr, scale: Expr, lanes: int) -> Expr:
    return emit.cast(total, "float32", lanes) * emit.splat(scale, lanes)


def _key_columns(keys: Buffer, words: int) -> Callable[[Expr, int], Columns]:
    return lambda offset, lanes: Columns(
        lambda word, plane: emit.load(keys, plane * words + word, offset, lanes=lanes), lanes
    )


def _transpose_keys(
    k: Buffer, head: tuple[Expr, Expr], start: Expr, count: Expr, keys: Buffer, spec: AttentionSpec
) -> None:
    """Copies keys start .. start + count - 1 to `keys` [width, block], one key per lane."""
    width, block, lanes = int(k.shape[3]), spec.isa.block, spec.isa.word_lanes

    def one_by_one() -> None:
        with emit.loop("key", count) as key, emit.loop("word", width) as word:
            emit.store(keys, k[(*head, start + key, word)], word, key)

    def shuffled() -> None:
        with emit.loop("part", block // lanes) as part:
            flat = emit.let(emit.load_rows(k, (*head, start + part * lanes), width * lanes))
            for word in range(width):
                column = emit.pick(flat, [lane * width + word for lane in range(lanes)])
                emit.store(keys, column, word, part * lanes, lanes=lanes)

    emit.branch(count == block if width <= _MOST_SHUFFLED else False, shuffled, one_by_one)
