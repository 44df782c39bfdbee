"""Kernels of token search over the scores of a whole vocabulary: log-softmax and top-k.

Both process a row while it is in the cache; neither sorts. The size of the vocabulary is symbolic.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tbt_compile.codegen.kernels.dsl import emit, float_math, sums
from tbt_compile.codegen.kernels.dsl.loops import for_lanes, parallel_rows, row_of
from tbt_compile.codegen.kernels.float_ops.spec import AnySize
from tbt_compile.codegen.library import names
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Buffer, Expr, PrimFunc, T

_UNROLL = 4
"""Vectors of scores that are compared with the smallest of the top k at a time."""
_LOWEST = T.float32("-inf")
_MAGNITUDE = 0x7FFFFFFF
"""Mask of the bits of a float32 without the sign."""
_INFINITY = 0x7F800000
"""Magnitude bits of infinity; those of NaN are greater."""


def search_functions(isa: Isa) -> dict[str, PrimFunc]:
    """The functions of this module by their names in a library."""
    return {names.LOG_SOFTMAX: log_softmax(isa), names.BEST: best(isa)}


def log_softmax(isa: Isa) -> PrimFunc:
    """(x - max x) - log(sum exp(x - max x)) of M rows, in place.

    Arguments:
        scores: float32 [M, V]. A row with a NaN or +inf, or of -inf only, becomes NaN.
    """
    return emit.function("log_softmax", lambda: _log_softmax(isa))


def log_softmax_rows(spec: AnySize) -> PrimFunc:
    """As `log_softmax`, with another result.

    Arguments:
        x: float32 [M, V]
        y: float32 [M, V], the output
    """
    return emit.function("log_softmax_rows", lambda: _log_softmax(spec.isa, in_place=False))


def best(isa: Isa) -> PrimFunc:
    """The top k of beam_scores[i, b] + log_probs[i, b, v] over (b, v) for every input i, in descending order.

    Ties go to the lower beam, then to the lower token.

    Arguments:
        log_probs: float32 [I, B, V]
        beam_scores: float32 [I, B]
        scores: float32 [I, k], an output, k at most B * V; NaN if a log-probability of the input is NaN
        places: int64 [I, k], an output: b * V + v
    """
    return emit.function("best", lambda: _best(isa))


def _log_softmax(isa: Isa, in_place: bool = True) -> None:
    rows, size = emit.symbol("m"), emit.symbol("v")
    scores = emit.argument("scores", (rows, size), "float32")
    result = scores if in_place else emit.argument("y", (rows, size), "float32")
    lanes = isa.float_lanes

    def row(m: Expr) -> None:
        load = row_of(scores, m)
        peak = sums.fold(load, size, "float32", T.max, -math.inf)

        def weight(k: Expr, width: int) -> Expr:
            return float_math.exp(emit.let(load(k, width) - emit.splat(peak, width)), width)

        log = emit.let(float_math.log(sums.total(weight, size), 1))

        def subtract(k: Expr, value: Expr, width: int) -> None:
            log_probs = value - emit.splat(peak, width) - emit.splat(log, width)
            emit.store(result, log_probs, m, k, lanes=width)

        _each(scores, (m,), size, lanes, subtract)

    parallel_rows(rows, rows * size, row)


def _best(isa: Isa) -> None:
    inputs, beams, size, k = (emit.symbol(name) for name in ("i", "b", "v", "k"))
    log_probs = emit.argument("log_probs", (inputs, beams, size), "float32")
    beam_scores = emit.argument("beam_scores", (inputs, beams), "float32")
    scores = emit.argument("scores", (inputs, k), "float32")
    places = emit.argument("places", (inputs, k), "int64")
    lanes = isa.float_lanes

    def one(item: Expr) -> None:
        top = _TopK(scores, places, item, k)
        largest_bits = _Reduction("bits", "int32", T.int32(0), lanes, T.max)
        with emit.loop("beam", beams) as beam:
            base = emit.let(beam_scores[item, beam])

            def total(v: Expr, width: int) -> Expr:
                return emit.load(log_probs, item, beam, v, lanes=width) + emit.splat(base, width)

            def single(v: Expr) -> None:
                top.insert(emit.let(total(v, 1)), beam * size + v)

            def check(values: Expr, width: int) -> None:
                # Find NaN by its bits: TVM folds x == x to true.
                bits = T.reinterpret(emit.vector("int32", width), values)
                largest_bits.take(bits & emit.splat(T.int32(_MAGNITUDE), width), width)

            step = _UNROLL * lanes
            with emit.loop("group", size // step) as group:
                start = group * step
                vectors = [emit.let(total(start + n * lanes, lanes)) for n in range(_UNROLL)]
                largest = vectors[0]
                for values in vectors:
                    check(values, lanes)
                    largest = T.max(largest, values)
                with (
                    emit.when(top.admits(emit.reduce_lanes(largest, lanes, T.max))),
                    emit.loop("each", step) as each,
                ):
                    single(start + each)
            with emit.loop("rest", size % step) as rest:
                last = size // step * step + rest
                check(emit.let(total(last, 1)), 1)
                single(last)
        with emit.when(largest_bits.result() > T.int32(_INFINITY)), emit.loop("place", k) as place:
            emit.store(scores, T.float32("nan"), item, place)
            emit.store(places, T.int64(0), item, place)

    parallel_rows(inputs, inputs * beams * size, one)


class _TopK:
    """The k best continuations of one input so far, sorted, in the output buffers."""

    def __init__(self, scores: Buffer, places: Buffer, item: Expr, k: Expr) -> None:
        self.scores, self.places = scores, places
        self.item, self.k = item, k
        self.count = emit.Register("count", "int64", 1, T.int64(0))
        self.smallest = emit.Register("least", "float32", 1, _LOWEST)

    def admits(self, value: Expr) -> Expr:
        """Whether a value is among the top k so far."""
        return T.Or(self.count.get() < self.k, value > self.smallest.get())

    def insert(self, value: Expr, place: Expr) -> None:
        """Insert a value if it is among the top k, after equal values."""
        with emit.when(self.admits(value)):
            at = emit.Register("at", "int64", 1, self.count.get())
            with emit.loop("back", self.count.get()) as back:
                before = emit.let(self.count.get() - 1 - back)
                with emit.when(self.scores[self.item, before] < value):
                    with emit.when(before + 1 < self.k):
                        emit.store(self.scores, self.scores[self.item, before], self.item, before + 1)
                        emit.store(self.places, self.places[self.item, before], self.item, before + 1)
                    at.set(before)
            emit.store(self.scores, value, self.item, at.get())
            emit.store(self.places, place, self.item, at.get())
            self.count.set(T.min(self.count.get() + 1, self.k))
            self.smallest.set(self.scores[self.item, self.count.get() - 1])


class _Reduction:
    """A reduction of vectors, lane by lane, and of scalar tail elements, combined at the end."""

    def __init__(
        self, name: str, dtype: str, initial: Expr, lanes: int, combine: Callable[[Expr, Expr], Expr]
    ) -> None:
        self.lanes, self.combine = lanes, combine
        self.vector = emit.Register(name, dtype, lanes, emit.splat(initial, lanes))
        self.single = emit.Register(f"{name}_rest", dtype, 1, initial)

    def take(self, value: Expr, lanes: int) -> None:
        register = self.vector if lanes > 1 else self.single
        register.set(self.combine(register.get(), value))

    def result(self) -> Expr:
        whole = emit.reduce_lanes(self.vector.get(), self.lanes, self.combine)
        return emit.let(self.combine(whole, self.single.get()))


def _each(
    scores: Buffer, at: tuple[Expr, ...], size: Expr, lanes: int, body: Callable[[Expr, Expr, int], None]
) -> None:
    """Loop over a row and emit `body(k, values, lanes)`."""
    for_lanes(size, lanes, lambda k, width: body(k, emit.load(scores, *at, k, lanes=width), width))
