"""The two products of attention over packed keys and values of 1 or 2 bits, with popcounts."""

from __future__ import annotations

from collections.abc import Callable

from tbt_compile.codegen.kernels.attention.spec import AttentionSpec, Head, Store, store_scores
from tbt_compile.codegen.kernels.dot.bit_product import bit_product
from tbt_compile.codegen.kernels.dot.packed_rows import PackedRows
from tbt_compile.codegen.kernels.dot.register_tile import Columns
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

_MAX_SHUFFLED_WORDS = 8


class PopcountScores:
    """Scores of a chunk of queries with all keys of one head, float(sum_d cq * ck) * (sq * sk).

    Args:
        spec: the product Q.K^T.
        scales: float32 scales of the queries and of the keys.
        k: the packed keys, uint64 [B, H, T, P * ceil(D / 64)].
        head: batch item and head of the keys.

    Attributes:
        chunk_rows: queries per chunk.
    """

    chunk_rows = 16

    def __init__(self, spec: AttentionSpec, scales: tuple[Expr, Expr], k: Buffer, head: Head) -> None:
        self.spec = spec
        self.scale, key_scale = scales
        self.product_scale = emit.let(self.scale * key_scale)
        self.k = k
        self.head = head
        self.rows = PackedRows(bit_product(spec.left, spec.right), spec.isa, spec.d, self.chunk_rows)
        self.keys = emit.scratch("keys", (self.rows.words * spec.right.planes, spec.isa.block), "uint64")

    def chunk(self, count: Expr, tokens: Expr, load: Callable[[Expr], emit.Load], store: Store) -> None:
        """Emit the scores of a chunk.

        Args:
            count: number of queries in the chunk.
            tokens: number of keys, from the first on.
            load: returns the loader of a query, float32 [D].
            store: stores the scores.
        """
        block = self.spec.isa.block
        with emit.loop("row", count) as row:
            self.rows.pack(row, load(row), self.scale, self.spec.center_left)
        with emit.loop("block", T.ceildiv(tokens, block)) as index:
            start = emit.let(index * block)
            self._transpose(start, T.min(T.int64(block), tokens - start))

            def epilogue(row: Expr, offset: Expr, lanes: int, total: Expr, _: Expr) -> None:
                def values(sums: Expr, _: Expr | int, size: int) -> Expr:
                    return scaled(sums, self.product_scale, size)

                store_scores(store, row, start + offset, lanes, tokens, total, values)

            self.rows.multiply(count, self._columns, block, epilogue)

    def _columns(self, offset: Expr, lanes: int) -> Columns:
        words = self.rows.words
        return Columns(
            lambda word, plane: emit.load(self.keys, plane * words + word, offset, lanes=lanes), lanes
        )

    def _transpose(self, start: Expr, count: Expr) -> None:
        """Transpose keys start .. start + count - 1 into `keys` [width, block], one key per lane."""
        k, keys, isa = self.k, self.keys, self.spec.isa
        width, block, lanes = int(k.shape[3]), isa.block, isa.word_lanes

        def one_by_one() -> None:
            with emit.loop("key", count) as key, emit.loop("word", width) as word:
                emit.store(keys, k[(*self.head, start + key, word)], word, key)

        def shuffled() -> None:
            with emit.loop("part", block // lanes) as part:
                flat = emit.let(emit.load_rows(k, (*self.head, start + part * lanes), width * lanes))
                for word in range(width):
                    column = emit.shuffle(flat, [lane * width + word for lane in range(lanes)])
                    emit.store(keys, column, word, part * lanes, lanes=lanes)

        emit.branch(count == block if width <= _MAX_SHUFFLED_WORDS else False, shuffled, one_by_one)


class PopcountOutputs:
    """Weighted sums of the values of one head, float(sum_t cp * cv) * (sp * sv).

    Args:
        spec: the product P.V.
        scales: float32 scales of the probabilities and of the values.
        v: the packed values, uint64 [B, H, ceil(T / 64), P, D].
        head: batch item and head of the values.
        tokens: T, symbolic.
        chunk_rows: maximum number of rows of probabilities per chunk.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        scales: tuple[Expr, Expr],
        v: Buffer,
        head: Head,
        tokens: Expr,
        chunk_rows: int,
    ) -> None:
        self.spec = spec
        self.scale, value_scale = scales
        self.product_scale = emit.let(self.scale * value_scale)
        self.v = v
        self.head = head
        self.rows = PackedRows(bit_product(spec.left, spec.right), spec.isa, tokens, chunk_rows)

    def chunk(self, count: Expr, tokens: Expr, load: Callable[[Expr], emit.Load], store: Store) -> None:
        """Emit the outputs of a chunk.

        Args:
            count: number of rows in the chunk.
            tokens: number of values, from the first on.
            load: returns the loader of a row of probabilities, float32 [T].
            store: stores the outputs.
        """
        rows = self.rows.first(tokens)
        with emit.loop("row", count) as row:
            rows.pack(row, load(row), self.scale, self.spec.center_left)

        def epilogue(row: Expr, offset: Expr, lanes: int, total: Expr, _: Expr) -> None:
            store(row, offset, lanes, scaled(total, self.product_scale, lanes))

        rows.multiply(count, self._columns, self.spec.d, epilogue)

    def _columns(self, offset: Expr, lanes: int) -> Columns:
        return Columns(
            lambda word, plane: emit.load(self.v, *self.head, word, plane, offset, lanes=lanes), lanes
        )


def scaled(total: Expr, scale: Expr, lanes: int) -> Expr:
    """Scale integer sums.

    Args:
        total: int32, a vector of `lanes`.
        scale: float32, broadcast.
        lanes: lanes of the vector.

    Returns:
        float32, a vector of `lanes`.
    """
    return emit.cast(total, "float32", lanes) * emit.splat(scale, lanes)
