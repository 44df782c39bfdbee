"""What the branches that an export took require of the sizes of a call.

A graph holds one way through a forward: that of the example. Every branch on a size that led there is a
guard, a relation of sizes. A range of one size becomes a bound, which is checked before every call:

    if ids.shape[1] > 16: ...          tokens <= 16
    assert 2 * ids.shape[1] < 40       tokens <= 19
    if ids.shape[1] == mask.shape[1]   nothing, where both are called tokens
    if ids.shape[1] % 8 != 0: ...      no tokens that are a multiple of 8, if the example is none
    if ids.shape[1] // 8 != 4: ...     no tokens from 32 to 39

Any other, such as `tokens % 8 == 0`, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from torch.export import ExportedProgram
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.solve import try_solve

from tbt_compile.errors import LoweringError
from tbt_compile.passes.capture_errors import line_of
from tbt_compile.passes.largest_values import size_of
from tbt_compile.passes.size_relations import (
    MOST_TRIED,
    RANGES,
    excluded_remainder,
    simplified,
    truth,
    without_positive_factors,
)
from tbt_compile.size_bounds import SizeBound, tightest

Shape = Mapping[int, sympy.Expr]
"""The dynamic dimensions of an input, as expressions in the sizes of a call."""

UNKNOWN = "the graph was captured for no other"
"""The reason of a bound whose branch is not known."""
_SMALLEST = 2
"""The smallest value that torch.export takes a dynamic size to have."""


class Guard(NamedTuple):
    """A relation that the sizes of a call must satisfy, and the line of the forward that led to it, or ""."""

    relation: Any
    place: str


class InexpressibleError(LoweringError):
    """A guard that is no range of one size.

    Args:
        message: says so.
        relations: all guards of the program, if they are known.
    """

    def __init__(self, message: str, relations: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.relations = relations


def size(name: str) -> sympy.Symbol:
    """A size of a call, a positive integer."""
    return sympy.Symbol(name, integer=True, positive=True)


def size_bounds(program: ExportedProgram, shapes: Sequence[Shape], name: str) -> list[SizeBound]:
    """Read the guards of a program as bounds on the sizes of its calls.

    Args:
        program: fresh from the export: later passes lose its guards.
        shapes: of its inputs, in order; other dimensions are static.
        name: of the program, for messages.

    Returns:
        The bounds, with the reasons.

    Raises:
        InexpressibleError: a guard is no range of one size.
    """
    bounds: list[SizeBound] = []
    example = _example(program, shapes)
    guards = list(_guards(program, shapes))
    for guard in guards:
        found = list(_bounds(guard, example))
        if None in found:
            relation = PythonPrinter().doprint(guard.relation)
            raise InexpressibleError(
                f"{name} was captured for calls where {relation}{_at(guard.place)}: a compiled model keeps "
                "the smallest and the largest value of a size only; compute the same for all sizes, or pad "
                "to one that fits",
                [each.relation for each in guards],
            )
        bounds += [bound for bound in found if bound is not None]
    return tightest(bounds)


def named_shapes(program: ExportedProgram) -> list[Shape]:
    """The dynamic dimensions of the inputs of a program, each symbol with a name: n0, n1, ...

    Raises:
        InexpressibleError: one is a function of others.
    """
    names: dict[sympy.Symbol, sympy.Symbol] = {}
    shapes: list[Shape] = []
    for value in input_values(program):
        symbols = {
            dim: size_of(extent) for dim, extent in enumerate(value.shape) if not isinstance(extent, int)
        }
        if not all(symbol.is_Symbol for symbol in symbols.values()):
            raise InexpressibleError("a dimension of an input is a function of others")
        shapes.append(
            {dim: names.setdefault(symbol, size(f"n{len(names)}")) for dim, symbol in symbols.items()}
        )
    return shapes


def input_values(program: ExportedProgram) -> list[Any]:
    """The fake tensors that a program takes, in order."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [nodes[str(name)].meta["val"] for name in program.graph_signature.user_inputs]


def smallest(shapes: Iterable[Shape]) -> dict[sympy.Symbol, int]:
    """The smallest value of every size at which no dimension is empty."""
    found: dict[sympy.Symbol, int] = {}
    for symbol, extent in _of_one_size(extent for shape in shapes for extent in shape.values()):
        found[symbol] = max(found.get(symbol, 1), 1 - int(extent.subs(symbol, 0)))
    return found


def _guards(program: ExportedProgram, shapes: Sequence[Shape]) -> Iterator[Guard]:
    """The guards as relations of the sizes of a call."""
    pairs = _extents(program, shapes)
    if not pairs:
        return
    env = input_values(program)[0].fake_mode.shape_env
    known = extents_of_symbols(program, shapes)
    simplified = [Guard(env.replace(guard.expr), _place(guard.sloc)) for guard in env.guards]
    for found, extent in pairs:
        # A size that the forward fixes is no symbol any more, and makes its guards true.
        places = [place for relation, place in simplified if relation == sympy.true and found.is_Integer]
        yield Guard(sympy.Eq(extent, found.xreplace(known)), next(iter(places), ""))
    for relation, place in simplified:
        yield Guard(relation.xreplace(known), place)
    for symbol, extent in known.items():
        allowed = program.range_constraints.get(symbol)
        if allowed is not None and allowed.upper.is_Integer:
            yield Guard(extent <= allowed.upper, "")
        if allowed is not None and allowed.lower > _assumed(extent, known):
            yield Guard(extent >= allowed.lower, "")


def extents_of_symbols(program: ExportedProgram, shapes: Sequence[Shape]) -> dict[sympy.Symbol, sympy.Expr]:
    """The symbols of a program as expressions in the sizes of a call."""
    return {symbol: extent for symbol, extent in reversed(_extents(program, shapes)) if symbol.is_Symbol}


def _extents(program: ExportedProgram, shapes: Sequence[Shape]) -> list[tuple[sympy.Expr, sympy.Expr]]:
    """Every dynamic dimension of the inputs: as the program has it, and in the sizes of a call."""
    return [
        (size_of(value.shape[dim]), extent)
        for value, shape in zip(input_values(program), shapes, strict=True)
        for dim, extent in shape.items()
    ]


def _example(program: ExportedProgram, shapes: Sequence[Shape]) -> dict[sympy.Symbol, int]:
    """The sizes of the call that was exported."""
    found = {}
    for value, shape in zip(input_values(program), shapes, strict=True):
        for dim, extent in shape.items():
            here = value.shape[dim]
            for symbol, _ in _of_one_size([extent]):
                found[symbol] = (here if isinstance(here, int) else here.node.hint) - int(
                    extent.subs(symbol, 0)
                )
    return found


def _of_one_size(extents: Iterable[sympy.Expr]) -> Iterator[tuple[sympy.Symbol, sympy.Expr]]:
    """The extents that are a size plus a constant, with the size; sums of sizes follow from others."""
    for extent in extents:
        if len(extent.free_symbols) == 1:
            yield next(iter(extent.free_symbols)), extent


def _assumed(extent: sympy.Expr, known: Mapping[sympy.Symbol, sympy.Expr]) -> int:
    """The smallest value of an extent where all dynamic dimensions are at least `_SMALLEST`."""
    least: dict[sympy.Symbol, int] = {}
    for symbol, other in _of_one_size(known.values()):
        least[symbol] = max(least.get(symbol, 1), _SMALLEST - int(other.subs(symbol, 0)))
    return int(extent.subs(least))


def _bounds(guard: Guard, example: Mapping[sympy.Symbol, int]) -> Iterator[SizeBound | None]:
    """The bounds that a guard sets; None if it is no range of one size.

    Args:
        guard: holds for the example.
        example: the sizes of the call that was exported.

    Yields:
        The bounds.
    """
    relation = simplified(guard.relation)
    if relation == sympy.true:
        return
    if isinstance(relation, sympy.And):
        for part in relation.args:
            yield from _bounds(Guard(part, guard.place), example)
        return
    excluded = excluded_remainder(relation)
    if excluded is not None:
        symbol, modulus, remainder = excluded
        yield SizeBound(str(symbol), remainder, False, _reason("there", guard.place), modulus)
        return
    solved = _solved(relation)
    if solved is None:
        yield from _tried(Guard(relation, guard.place), example)
        return
    symbol, relation, limit = solved
    if isinstance(relation, sympy.Ne):  # the side on which the example is
        relation = symbol < limit if example[symbol] < limit else symbol > limit
    largest = isinstance(relation, (sympy.Lt, sympy.Le))
    if isinstance(relation, sympy.Lt):
        whole = sympy.ceiling(limit) - 1
    elif isinstance(relation, sympy.Gt):
        whole = sympy.floor(limit) + 1
    else:
        whole = sympy.floor(limit) if largest else sympy.ceiling(limit)
    side = "beyond" if largest else "below"
    yield SizeBound(str(symbol), int(whole), largest, _reason(side, guard.place))


def _tried(guard: Guard, example: Mapping[sympy.Symbol, int]) -> Iterator[SizeBound | None]:
    """The bounds of a guard that cannot be solved, by trying every size up to `MOST_TRIED`."""
    relation = without_positive_factors(guard.relation)
    if relation == sympy.true:
        return
    if len(relation.free_symbols) != 1:
        yield None
        return
    (symbol,) = relation.free_symbols
    holds = truth(relation, symbol)
    changes = np.flatnonzero(np.diff(holds)) + 1  # the last size before each change
    here = example[symbol]
    below, beyond = changes[changes < here], changes[changes >= here]
    if not len(below) and len(beyond) == 2:
        first, last = int(beyond[0]) + 1, int(beyond[1])
        yield SizeBound(str(symbol), first, False, _reason("there", guard.place), last=last)
        beyond = beyond[:0]
    if len(below) + len(beyond) > 1:
        yield None
        return
    if len(below):
        yield SizeBound(str(symbol), int(below[0]) + 1, False, _reason("below", guard.place))
    yield SizeBound(
        str(symbol), int(beyond[0]) if len(beyond) else MOST_TRIED, True, _reason("beyond", guard.place)
    )


def _reason(side: str, place: str) -> str:
    return f"the forward takes another branch {side} ({place})" if place else UNKNOWN


def _solved(relation: Any) -> tuple[sympy.Symbol, Any, Any] | None:
    """The size, the relation solved for it, and its limit, if the relation is a range of one size."""
    if len(relation.free_symbols) != 1:
        return None
    (symbol,) = relation.free_symbols
    solved = try_solve(relation, symbol)
    if solved is None or not solved[1].is_number or not isinstance(solved[0], RANGES):
        return None
    return symbol, *solved


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _place(location: Any) -> str:
    """The file, line and text of a branch in a model's code: "gpt.py:12: if ids.shape[1] > 16"."""
    frame = location.framework_loc
    return "" if frame is None or isinstance(frame, str) else line_of(frame.filename, frame.lineno)
