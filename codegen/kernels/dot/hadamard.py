"""Rotate a row of floats by blocks of a Hadamard matrix, before it is quantized and packed.

The fast Walsh-Hadamard transform, in the order of docs/numerics.md: for h = 1, 2, 4, ..., block / 2 the
elements i and i + h of every 2 h become their sum and difference; then one multiplication. Butterflies within
16 elements permute the lanes of a vector, one register with AVX-512 and four with NEON, where those of whole
registers cost nothing. Those of larger h take whole vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.kernels.dsl.loops import parallel_rows, row_of
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T

_LANES = 16


@dataclass(frozen=True)
class HadamardSpec:
    """A rotation of rows.

    Attributes:
        k: length of a row.
        block: a power of two that divides it.
        isa: instruction set to schedule for.
    """

    k: int
    block: int
    isa: Isa


def hadamard(spec: HadamardSpec) -> PrimFunc:
    """Rotate M rows, M symbolic.

    Arguments:
        x: float32 [M, K]
        y: float32 [M, K], the output
    """

    def body() -> None:
        rows = emit.symbol("m")
        x = emit.argument("x", (rows, spec.k), "float32")
        y = emit.argument("y", (rows, spec.k), "float32")
        parallel_rows(rows, rows * spec.k, lambda m: rotate_row(row_of(x, m), spec, y, m))

    return emit.function("hadamard", body)


def rotate_row(load: emit.Load, spec: HadamardSpec, out: Buffer, *at: Expr) -> None:
    """Store the rotation of a row.

    Args:
        load: loads float32 elements of the row.
        spec: its length and blocks.
        out: float32 [..., K]; the row is stored there.
        at: indices of the row in `out`.
    """
    lanes = min(_LANES, spec.block)
    factor = spec.block**-0.5 if lanes == spec.block else None
    with emit.loop("vector", spec.k // lanes) as vector:
        values = _within_vector(load(vector * lanes, lanes), lanes)
        emit.store(out, _scaled(values, factor, lanes), *at, vector * lanes, lanes=lanes)
    if factor is None:
        _between_vectors(spec, out, at)


def _within_vector(values: Expr, lanes: int) -> Expr:
    """The butterflies of h below the number of lanes."""
    half = 1
    while half < lanes:
        values = emit.let(values)
        other = emit.let(emit.shuffle(values, [lane ^ half for lane in range(lanes)]))
        both = [emit.let(values + other), emit.let(other - values)]
        values = emit.select(both, [lane + lanes * bool(lane & half) for lane in range(lanes)])
        half *= 2
    return values


def _between_vectors(spec: HadamardSpec, out: Buffer, at: tuple[Expr, ...]) -> None:
    """The butterflies of h from 16 on, in place, and the multiplication; a register per vector at a time."""
    lanes, count = min(_LANES, spec.isa.float_lanes), spec.block // _LANES
    with emit.loop("block", spec.k // spec.block) as block, emit.loop("part", _LANES // lanes) as part:
        places = [block * spec.block + vector * _LANES + part * lanes for vector in range(count)]
        values = [emit.let(emit.load(out, *at, place, lanes=lanes)) for place in places]
        half = 1
        while half < count:
            for first in (index for index in range(count) if not index & half):
                a, b = values[first], values[first + half]
                values[first], values[first + half] = emit.let(a + b), emit.let(a - b)
            half *= 2
        for place, value in zip(places, values, strict=True):
            emit.store(out, _scaled(value, spec.block**-0.5, lanes), *at, place, lanes=lanes)


def _scaled(values: Expr, factor: float | None, lanes: int) -> Expr:
    return values if factor is None else values * emit.splat(T.float32(factor), lanes)
