"""The leading tokens that a chunk of queries sees: a causal mask hides half of all pairs of a prompt.

The probability of a hidden token is exactly zero, and so is what it adds to a sum. Tokens after the last
visible one are left out of the scores, the softmax and the outputs of a chunk, which changes no bit of them.
"""

from __future__ import annotations

from tbt_compile.codegen.kernels.attention.spec import AttentionSpec, Head, stored_scale
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.target.isa import WORD_BITS
from tbt_compile.codegen.tvm_api import Buffer, Expr, T

_LOWEST = -3.4028234663852886e38  # of float32; what a mask adds to hide a token, or -inf
_INFINITY = 0x7F800000  # the bits of a float32


class VisibleTokens:
    """Which tokens the chunks of one head see.

    Args:
        mask: float32 [B, 1, Q or 1, T]; None to see all tokens.
        batch: batch item.
        queries: Q.
        tokens: T.
        product: P.V, which decides what can be left out.
    """

    def __init__(
        self, mask: Buffer | None, batch: Expr, queries: Expr, tokens: Expr, product: AttentionSpec
    ) -> None:
        self._mask = mask
        self._batch = batch
        self._queries = queries
        self._tokens = tokens
        self._lanes = product.isa.float_lanes
        # A signed code of a hidden token is not zero.
        self._may_hide = mask is not None and not product.left.signed
        self._keep_all: Expr = T.bool(False)

    def keep_infinite(self, rows: Buffer, spec: AttentionSpec, head: Head) -> None:
        """Leave out nothing if the scale of a token is infinite or NaN: zero times that is NaN.

        Args:
            rows: 8-bit keys or values.
            spec: their product.
            head: batch item and head of the rows.
        """
        if not self._may_hide:
            return
        found = emit.Register("found", "int32", 1, T.int32(0))
        with emit.when(self._queries > 1), emit.loop("t", self._tokens) as t:
            bits = T.reinterpret("int32", stored_scale(rows, spec, *head, t))
            infinite = (bits & T.int32(_INFINITY)) == T.int32(_INFINITY)
            found.set(T.Select(infinite, T.int32(1), found.get()))
        self._keep_all = T.Or(self._keep_all, emit.let(found.get()) != 0)

    def of(self, first: Expr, count: Expr) -> Expr:
        """The number of leading tokens that queries first .. first + count - 1 see, or a few more.

        One query, in a decoding step, usually sees all: its mask is not searched.
        """
        if not self._may_hide:
            return self._tokens
        assert self._mask is not None
        rows = self._mask.shape[2]
        seen = emit.Register("seen", "int64", 1, self._tokens)
        with emit.when(T.And(self._queries > 1, T.Not(self._keep_all))):
            seen.set(T.int64(0))
            with emit.loop("row", T.Select(rows == 1, T.int64(1), count)) as row:
                seen.set(T.max(seen.get(), self._seen_by(T.min(first + row, rows - 1))))
        # Whole words of packed probabilities.
        return emit.let(T.min(T.ceildiv(seen.get(), T.int64(WORD_BITS)) * WORD_BITS, self._tokens))

    def _seen_by(self, row: Expr) -> Expr:
        """One more than the last token that a row of the mask does not hide; T if it hides all."""
        lanes = self._lanes
        lowest = T.float32(_LOWEST)
        numbers = emit.Register("numbers", "int32", lanes, T.Ramp(T.int32(1), T.int32(1), lanes))
        zero = emit.splat(T.int32(0), lanes)
        last = emit.Register("last", "int32", lanes, zero)
        with emit.loop("group", self._tokens // lanes) as group:
            added = emit.load(self._mask, self._batch, 0, row, group * lanes, lanes=lanes)
            last.set(T.Select(added <= emit.splat(lowest, lanes), last.get(), numbers.get()))
            numbers.add(emit.splat(T.int32(lanes), lanes))
        whole = self._tokens // lanes * lanes
        total = emit.Register("total", "int64", 1)
        total.set(T.cast(emit.reduce_lanes(last.get(), lanes, T.max), "int64"))
        with emit.loop("rest", self._tokens % lanes) as rest:
            added = emit.load(self._mask, self._batch, 0, row, whole + rest)
            total.set(T.Select(added <= lowest, total.get(), whole + rest + 1))
        return emit.let(T.Select(total.get() == 0, self._tokens, total.get()))
