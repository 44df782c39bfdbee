"""What the linear kernels of all weight encodings have in common."""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.isa import Isa
from tbt_compile.codegen.kernels import emit
from tbt_compile.codegen.tvm_api import Expr
from tbt_compile.encoding import Encoding

_PARALLEL_WORK = 1 << 19
"""Word operations below which starting the thread pool costs more than it saves."""


@dataclass(frozen=True)
class LinearSpec:
    """A linear layer.

    Attributes:
        n: output features.
        k: input features.
        activation: any quantized encoding; with 8-bit weights INT8 or UINT8.
        weight: BINARY, TERNARY or INT8.
        center: subtract the row mean of signed 1 and 2 bit activations.
        has_bias: whether there is a bias argument.
        isa: instruction set to schedule for; it also fixes the weight layout.
    """

    n: int
    k: int
    activation: Encoding
    weight: Encoding
    center: bool
    has_bias: bool
    isa: Isa


def share_columns(rows: Expr, most_rows: int, extent: int, work_per_row: int, body: emit.Body) -> None:
    """Runs `body` for 0 .. extent - 1, on all threads where there is enough work for them.

    `rows` is known at run time, at most `most_rows`; whatever can be decided now costs no code.
    """
    fewest = -(-_PARALLEL_WORK // max(1, work_per_row))

    def serial() -> None:
        with emit.loop("column", extent) as column:
            body(column)

    def threads() -> None:
        with emit.parallel("column", extent) as column:
            body(column)

    many: Expr | bool = rows >= fewest
    if extent == 1 or fewest > most_rows:
        many = False
    elif fewest <= 1:
        many = True
    emit.branch(many, threads, serial)
