"""The two products of attention over 8-bit keys and values: rows of D codes followed by a float32 scale.

    scores[q, t] = float(sum_d cq * ck) * (sq * sk[t])
    out[q, d]    = sp * sum_t (cp[t] * sv[t]) * cv[t, d]      in float32, t ascending

All scales are dynamic, one per token.
"""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.attention.spec import (
    AttentionSpec,
    Head,
    Store,
    store_scores,
    stored_scale,
)
from tbt_compile.codegen.kernels.dispatch import GEMM_FROM
from tbt_compile.codegen.kernels.dot.byte_rows import ByteRows, code_type, rows_at_once
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import for_lanes
from tbt_compile.codegen.kernels.linear.int8 import Int8Gemm
from tbt_compile.codegen.kernels.linear.spec import CHUNK_ROWS, LinearSpec
from tbt_compile.codegen.tvm_api import Buffer, Expr, T
from tbt_compile.encoding import Encoding

_VALUE_ROWS = 4


class Int8GemvScores:
    """Scores of a few queries with all keys of one head; keys are read in stored order, several at a time.

    Attributes:
        chunk_rows: queries per chunk.
    """

    chunk_rows = GEMM_FROM

    def __init__(self, spec: AttentionSpec, _scales: tuple[Expr, Expr], k: Buffer, head: Head) -> None:
        self.spec = spec
        self.k = k
        self.head = head
        self.rows = ByteRows(spec.left, spec.isa, spec.d, self.chunk_rows, products=True)

    def chunk(self, count: Expr, tokens: Expr, load: Callable[[Expr], emit.Load], store: Store) -> None:
        """Emit the scores of a chunk.

        Args:
            count: number of queries in the chunk.
            tokens: number of keys, from the first on.
            load: returns the loader of a query, float32 [D].
            store: stores the scores.
        """
        with emit.loop("row", count) as row:
            self.rows.pack(row, load(row))
        right = self.spec.right

        def codes(t: Expr) -> emit.Load:
            return lambda d, lanes: _codes(self.k, right, lanes, *self.head, t, d)

        def keys(t: Expr, together: int) -> None:
            scales = [stored_scale(self.k, self.spec, *self.head, t + i) for i in range(together)]
            key_scales = emit.let(emit.concat(scales, 1))
            with emit.loop("row", count) as row:
                if together == 1:
                    totals = self.rows.dot(row, codes(t), right)
                else:
                    totals = self.rows.dots(row, [codes(t + i) for i in range(together)], right)
                scale = emit.splat(emit.let(self.rows.scales[row]), together) * key_scales
                store(row, t, together, emit.cast(totals, "float32", together) * scale)

        for_lanes(tokens, rows_at_once(self.spec.isa), keys)


class Int8GemmScores(Int8Gemm):
    """Scores of many queries: once per chunk, blocks of keys are reordered for the byte instructions.

    Attributes:
        chunk_rows: queries per chunk.
        tokens: number of keys of the chunk at hand.
    """

    chunk_rows = CHUNK_ROWS

    def __init__(self, spec: AttentionSpec, _scales: tuple[Expr, Expr], k: Buffer, head: Head) -> None:
        layer = LinearSpec(spec.isa.block, spec.d, spec.left, Encoding.INT8, False, False, spec.isa)
        super().__init__(layer, T.float32(0))
        self.attention = spec
        self.k = k
        self.head = head
        self.tokens: Expr = k.shape[2]
        self.key_scales = emit.scratch("key_scales", (spec.isa.block,), "float32")

    def columns_left(self, first: Expr) -> Expr:
        """The number of tokens from `first` on."""
        return self.tokens - first

    def read(self, w: Buffer, column: Expr, k: Expr, lanes: int) -> Expr:
        """Load adjacent codes of a key.

        Args:
            w: the keys, int8 [B, H, T, D + 4].
            column: the token.
            k: the first feature.
            lanes: number of codes.

        Returns:
            int8, a vector of `lanes`.
        """
        return emit.load(w, *self.head, column, k, lanes=lanes)

    def chunk(self, count: Expr, tokens: Expr, load: Callable[[Expr], emit.Load], store: Store) -> None:
        """Emit the scores of a chunk.

        Args:
            count: number of queries in the chunk.
            tokens: number of keys, from the first on.
            load: returns the loader of a query, float32 [D].
            store: stores the scores.
        """
        self.tokens, block = tokens, self.spec.isa.block
        with emit.loop("row", count) as row:
            self.pack(row, load(row))
        with emit.loop("block", T.ceildiv(tokens, block)) as index:
            start = emit.let(index * block)
            with emit.loop("key", T.min(T.int64(block), tokens - start)) as key:
                scale = stored_scale(self.k, self.attention, *self.head, start + key)
                emit.store(self.key_scales, scale, key)

            def epilogue(row: Expr, offset: Expr, lanes: int, total: Expr, scale: Expr) -> None:
                def scaled(values: Expr, lane: Expr | int, size: int) -> Expr:
                    keys = emit.load(self.key_scales, offset + lane, lanes=size)
                    return emit.cast(values, "float32", size) * (emit.splat(scale, size) * keys)

                store_scores(store, row, start + offset, lanes, tokens, total, scaled)

            self.multiply(count, self.k, index, 1, epilogue)


class Int8Outputs:
    """Weighted sums of the values of one head; takes the arguments of `PopcountOutputs`."""

    def __init__(
        self,
        spec: AttentionSpec,
        _scales: tuple[Expr, Expr],
        v: Buffer,
        head: Head,
        tokens: Expr,
        _max_rows: int,
    ) -> None:
        self.spec = spec
        self.v = v
        self.head = head
        self.rows = ByteRows(spec.left, spec.isa, tokens, _VALUE_ROWS)
        self.weights = emit.scratch("weights", (_VALUE_ROWS, tokens), "float32")
        self.value_scales = emit.scratch("value_scales", (tokens,), "float32")
        with emit.loop("t", tokens) as t:
            emit.store(self.value_scales, stored_scale(v, spec, *head, t), t)

    def chunk(self, count: Expr, tokens: Expr, load: Callable[[Expr], emit.Load], store: Store) -> None:
        """Emit the outputs of a chunk.

        Args:
            count: number of rows in the chunk.
            tokens: number of values, from the first on.
            load: returns the loader of a row of probabilities, float32 [T].
            store: stores the outputs.
        """
        rows = self.rows.first(tokens)
        with emit.loop("tile", T.ceildiv(count, _VALUE_ROWS)) as tile:
            first = emit.let(tile * _VALUE_ROWS)
            height = emit.let(T.min(T.int64(_VALUE_ROWS), count - first))
            with emit.loop("row", height) as row:
                self._pack(rows, row, load(first + row))

            def one_by_one() -> None:
                with emit.loop("row", height) as row:
                    self._weigh(rows, first, row, 1, store)

            emit.branch(
                height == _VALUE_ROWS,
                lambda: self._weigh(rows, first, T.int64(0), _VALUE_ROWS, store),
                one_by_one,
            )

    def _pack(self, rows: ByteRows, row: Expr, load: emit.Load) -> None:
        """Quantize a row, and convert its codes to floats."""
        rows.pack(row, load)

        def weigh(t: Expr, lanes: int) -> None:
            codes = emit.cast(emit.load(rows.codes, row, t, lanes=lanes), "float32", lanes)
            emit.store(self.weights, codes, row, t, lanes=lanes)

        for_lanes(rows.length, self.spec.isa.float_lanes, weigh)

    def _weigh(self, rows: ByteRows, first: Expr, start: Expr, height: int, store: Store) -> None:
        """The sums of `height` rows from `start` on, which share each load of a value."""
        wide = self.spec.isa.float_lanes
        # As many sums as leave registers for a value and a weight.
        vectors = min(max(1, self.spec.isa.registers // 2 // height), max(1, self.spec.d // wide))
        size = _floor_power_of_two(vectors) * wide

        def columns(d: Expr, lanes: int) -> None:
            zero = emit.splat(T.float32(0), lanes)
            totals = [emit.Register("total", "float32", lanes, zero) for _ in range(height)]
            with emit.loop("t", rows.length) as t:
                codes = _codes(self.v, self.spec.right, lanes, *self.head, t, d)
                scale = emit.splat(self.value_scales[t], lanes)
                value = emit.let(emit.cast(emit.cast(codes, "int32", lanes), "float32", lanes) * scale)
                for r, total in enumerate(totals):
                    weight = emit.splat(self.weights[start + r, t], lanes)
                    total.set(emit.fma(weight, value, total.get()))
            for r, total in enumerate(totals):
                result = emit.splat(rows.scales[start + r], lanes) * total.get()
                store(first + start + r, d, lanes, result)

        for_lanes(self.spec.d, min(size, _floor_power_of_two(self.spec.d)), columns)


def _codes(rows: Buffer, encoding: Encoding, lanes: int, *at: Expr) -> Expr:
    stored = emit.load(rows, *at, lanes=lanes)
    return T.reinterpret(emit.vector(code_type(encoding), lanes), stored)


def _floor_power_of_two(size: int) -> int:
    return 1 << (size.bit_length() - 1)
