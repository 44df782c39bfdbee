"""Queries, keys, values and outputs of attention as floats, in either order of heads and tokens."""

from __future__ import annotations

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.tvm_api import Expr


class Heads:
    """An argument, float32 `[B, H, T, D]` or, heads last as linear layers give them, `[B, T, H, D]`."""

    def __init__(
        self, name: str, batch: Expr, heads: Expr, tokens: Expr, width: Expr | int, last: bool = False
    ) -> None:
        self.last = last
        rows = (tokens, heads) if last else (heads, tokens)
        self.buffer = emit.argument(name, (batch, *rows, width), "float32")

    def row(self, b: Expr, h: Expr, t: Expr) -> emit.Load:
        """The loader of one token of one head."""
        return lambda d, lanes: emit.load(self.buffer, *self._at(b, h, t), d, lanes=lanes)

    def store(self, value: Expr, b: Expr, h: Expr, t: Expr, d: Expr, lanes: int) -> None:
        """Writes some elements of one token of one head."""
        emit.store(self.buffer, value, *self._at(b, h, t), d, lanes=lanes)

    def _at(self, b: Expr, h: Expr, t: Expr) -> tuple[Expr, ...]:
        return (b, t, h) if self.last else (b, h, t)
