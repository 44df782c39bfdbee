"""Attention over packed keys and values: scores Q.K^T, outputs P.V, and both fused with the softmax.

Q and P arrive as floats and are quantized here; K and V arrive packed (`pack_cache`). The kernels loop over
heads and chunks of queries. Fused, the scores of a chunk stay in the cache; for 512 queries, 512 tokens and
12 heads they are 12 MiB, which would be written twice and read three times. Trailing tokens that a mask
hides from all queries of a chunk are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tbt_compile.codegen.kernels.attention.int8 import Int8GemmScores, Int8GemvScores, Int8Outputs
from tbt_compile.codegen.kernels.attention.popcount import PopcountOutputs, PopcountScores
from tbt_compile.codegen.kernels.attention.spec import AttentionSpec, Heads
from tbt_compile.codegen.kernels.attention.visible import VisibleTokens
from tbt_compile.codegen.kernels.dispatch import Kernel
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import chunks, parallel_heads, row_of
from tbt_compile.codegen.kernels.float_ops.softmax import scaled_and_masked, softmax_row
from tbt_compile.codegen.kernels.strategy import OUTPUTS, SCORES, strategy
from tbt_compile.codegen.layouts import SCALE_BYTES, words_for
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T
from tbt_compile.errors import LoweringError

_PV_CHUNK_ROWS = 16

Scores = type[PopcountScores] | type[Int8GemvScores] | type[Int8GemmScores]
Outputs = type[PopcountOutputs] | type[Int8Outputs]

_SCORES: dict[Kernel, Scores] = {
    Kernel.POPCOUNT: PopcountScores,
    Kernel.CARRY_SAVE: PopcountScores,
    Kernel.INT8_GEMV: Int8GemvScores,
    Kernel.INT8_GEMM: Int8GemmScores,
}
_OUTPUTS: dict[Kernel, Outputs] = {
    Kernel.POPCOUNT: PopcountOutputs,
    Kernel.CARRY_SAVE: PopcountOutputs,
    Kernel.FLOAT_SUMS: Int8Outputs,
}


@dataclass(frozen=True)
class FusedSpec:
    """Fused attention from queries to outputs.

    Attributes:
        qk: the product Q.K^T.
        pv: the product P.V.
        factor: constant factor of the scores.
        mask: whether a mask is added after scaling.
        heads_last: whether queries and outputs are [B, Q, H * groups, D].
    """

    qk: AttentionSpec
    pv: AttentionSpec
    factor: float
    mask: bool
    heads_last: bool = False


def qk(spec: AttentionSpec) -> PrimFunc:
    """Attention scores, Q.K^T.

    Arguments:
        q: float32 [B, H * groups, Q, D]
        q_scale: float32 [1], not read at 8 bits
        k: uint64 [B, H, T, P * ceil(D / 64)] or, at 8 bits, int8 [B, H, T, D + 4], from `pack_keys`
        k_scale: float32 [1], not read at 8 bits
        scores: float32 [B, H * groups, Q, T], the output

    The heads of `k` may be strided, with room for more tokens.

    Raises:
        LoweringError: only one operand has 8 bits.
    """
    _check(spec)
    return emit.function("qk", lambda: _qk(spec))


def pv(spec: AttentionSpec) -> PrimFunc:
    """Weighted sums of values, P.V.

    Arguments:
        p: float32 [B, H * groups, Q, T]
        p_scale: float32 [1], not read at 8 bits
        v: uint64 [B, H, ceil(T / 64), P, D] or, at 8 bits, int8 [B, H, T, D + 4], from `pack_values` or
            `append_values`
        v_scale: float32 [1], not read at 8 bits
        out: float32 [B, H * groups, Q, D], the output

    Raises:
        LoweringError: only one operand has 8 bits.
    """
    _check(spec)
    return emit.function("pv", lambda: _pv(spec))


def attention(spec: FusedSpec) -> PrimFunc:
    """Fused attention: `qk`, `softmax` and `pv` in one function.

    Arguments:
        q, q_scale, k, k_scale: as in `qk`
        mask: float32 [B, 1, Q or 1, T], only if `spec.mask`; as in `softmax`
        p_scale, v, v_scale, out: as in `pv`

    With `spec.heads_last`, q and out are float32 [B, Q, H * groups, D].

    Raises:
        LoweringError: only one operand of a product has 8 bits.
    """
    _check(spec.qk)
    _check(spec.pv)
    return emit.function("attention", lambda: _attention(spec))


def _check(spec: AttentionSpec) -> None:
    if spec.left.dynamic != spec.right.dynamic:
        raise LoweringError(
            f"attention of {spec.left.name} with {spec.right.name}: "
            "expected both operands at 8 bits, or neither"
        )


class _Sizes:
    """The symbolic sizes of attention, and its arguments in these sizes."""

    def __init__(self) -> None:
        self.batch, self.heads, self.queries, self.tokens = (emit.symbol(n) for n in ("b", "h", "q", "t"))

    def rows(self, name: str, spec: AttentionSpec, length: Expr | int) -> Buffer:
        """Declare an argument, float32 [B, H * groups, Q, length]."""
        return emit.argument(name, (self.batch, self.heads * spec.groups, self.queries, length), "float32")

    def floats(self, name: str, spec: AttentionSpec, heads_last: bool) -> Heads:
        """Declare an argument with the heads of the queries and D features, in either layout."""
        heads = self.heads * spec.groups
        return Heads(name, self.batch, heads, self.queries, spec.d, heads_last)

    def keys(self, spec: AttentionSpec) -> Buffer:
        """Declare the packed keys."""
        if spec.right.dynamic:
            return self._byte_rows("k", spec)
        shape = (self.batch, self.heads, self.tokens, words_for(spec.d) * spec.right.planes)
        return emit.cache_argument("k", shape, "uint64")

    def values(self, spec: AttentionSpec) -> Buffer:
        """Declare the packed values."""
        if spec.right.dynamic:
            return self._byte_rows("v", spec)
        shape = (self.batch, self.heads, emit.symbol("tw"), spec.right.planes, spec.d)
        return emit.cache_argument("v", shape, "uint64")

    def _byte_rows(self, name: str, spec: AttentionSpec) -> Buffer:
        shape = (self.batch, self.heads, self.tokens, spec.d + SCALE_BYTES)
        return emit.cache_argument(name, shape, "int8")

    def for_heads(self, spec: AttentionSpec, body: Callable[[Expr, Expr], None]) -> None:
        """Loop over the query heads and emit `body(b, h)`."""
        macs = self.batch * self.heads * self.queries * self.tokens * spec.d
        parallel_heads(macs, self.batch, self.heads * spec.groups, body)


def _qk(spec: AttentionSpec) -> None:
    sizes = _Sizes()
    q = sizes.rows("q", spec, spec.d)
    q_scale = emit.argument("q_scale", (1,), "float32")
    k = sizes.keys(spec)
    k_scale = emit.argument("k_scale", (1,), "float32")
    out = sizes.rows("scores", spec, sizes.tokens)
    scales = emit.let(q_scale[0]), emit.let(k_scale[0])

    def head(b: Expr, h: Expr) -> None:
        def with_kernel(kind: Scores) -> None:
            scores = kind(spec, scales, k, (b, h // spec.groups))

            def chunk(first: Expr, count: Expr) -> None:
                scores.chunk(
                    count,
                    sizes.tokens,
                    lambda row: row_of(q, b, h, first + row),
                    lambda row, t, lanes, value: emit.store(out, value, b, h, first + row, t, lanes=lanes),
                )

            chunks(sizes.queries, scores.chunk_rows, chunk)

        _by_rows(spec, sizes.queries, with_kernel)

    sizes.for_heads(spec, head)


def _pv(spec: AttentionSpec) -> None:
    sizes = _Sizes()
    p = sizes.rows("p", spec, sizes.tokens)
    p_scale = emit.argument("p_scale", (1,), "float32")
    v = sizes.values(spec)
    v_scale = emit.argument("v_scale", (1,), "float32")
    out = sizes.rows("out", spec, spec.d)
    scales = emit.let(p_scale[0]), emit.let(v_scale[0])

    def head(b: Expr, h: Expr) -> None:
        outputs = _outputs(spec)(spec, scales, v, (b, h // spec.groups), sizes.tokens, _PV_CHUNK_ROWS)

        def chunk(first: Expr, count: Expr) -> None:
            outputs.chunk(
                count,
                sizes.tokens,
                lambda row: row_of(p, b, h, first + row),
                lambda row, d, lanes, value: emit.store(out, value, b, h, first + row, d, lanes=lanes),
            )

        chunks(sizes.queries, _PV_CHUNK_ROWS, chunk)

    sizes.for_heads(spec, head)


def _attention(spec: FusedSpec) -> None:
    sizes, first_spec, second_spec = _Sizes(), spec.qk, spec.pv
    q = sizes.floats("q", first_spec, spec.heads_last)
    q_scale = emit.argument("q_scale", (1,), "float32")
    k = sizes.keys(first_spec)
    k_scale = emit.argument("k_scale", (1,), "float32")
    mask_rows = emit.symbol("mask_rows")
    shape = (sizes.batch, 1, mask_rows, sizes.tokens)
    mask = emit.argument("mask", shape, "float32") if spec.mask else None
    p_scale = emit.argument("p_scale", (1,), "float32")
    v = sizes.values(second_spec)
    v_scale = emit.argument("v_scale", (1,), "float32")
    out = sizes.floats("out", second_spec, spec.heads_last)
    score_scales = emit.let(q_scale[0]), emit.let(k_scale[0])
    value_scales = emit.let(p_scale[0]), emit.let(v_scale[0])

    def head(b: Expr, h: Expr) -> None:
        at = (b, h // first_spec.groups)

        def with_kernel(kind: Scores) -> None:
            scores = kind(first_spec, score_scales, k, at)
            outputs = _outputs(second_spec)(second_spec, value_scales, v, at, sizes.tokens, scores.chunk_rows)
            weights = emit.scratch("kept", (scores.chunk_rows, sizes.tokens), "float32")
            visible = VisibleTokens(mask, b, sizes.queries, sizes.tokens, second_spec)
            for stored, product in ((k, first_spec), (v, second_spec)):
                if product.right.dynamic:
                    visible.keep_infinite(stored, product, at)

            def chunk(first: Expr, count: Expr) -> None:
                tokens = visible.of(first, count)
                scores.chunk(
                    count,
                    tokens,
                    lambda row: q.row(b, h, first + row),
                    lambda row, t, lanes, value: emit.store(weights, value, row, t, lanes=lanes),
                )
                with emit.loop("row", count) as row:
                    mask_row = emit.let(T.min(first + row, mask_rows - 1)) if mask is not None else T.int64(0)
                    load = scaled_and_masked(row_of(weights, row), spec.factor, mask, b, mask_row)
                    softmax_row(first_spec.isa, load, tokens, weights, row)
                outputs.chunk(
                    count,
                    tokens,
                    lambda row: row_of(weights, row),
                    lambda row, d, lanes, value: out.store(value, b, h, first + row, d, lanes),
                )

            chunks(sizes.queries, scores.chunk_rows, chunk)

        _by_rows(first_spec, sizes.queries, with_kernel)

    sizes.for_heads(first_spec, head)


def _by_rows(spec: AttentionSpec, queries: Expr, body: Callable[[Scores], None]) -> None:
    """Dispatch on the number of queries: emit `body` with the GEMV and with the GEMM kernel."""
    chosen = strategy(spec.left, spec.right, spec.isa, spec.d, SCORES)
    emit.branch(
        queries < chosen.gemm_from if chosen.gemm is not chosen.gemv else True,
        lambda: body(_SCORES[chosen.gemv]),
        lambda: body(_SCORES[chosen.gemm]),
    )


def _outputs(spec: AttentionSpec) -> Outputs:
    return _OUTPUTS[strategy(spec.left, spec.right, spec.isa, table=OUTPUTS).gemm]
