"""What the branches that an export took require of the sizes of a call.

A graph holds one way through a forward: that of the example. Every branch on a size that led there is a
guard, a relation of sizes. A range of one size becomes a bound, which is checked before every call:

    if ids.shape[1] > 16: ...          tokens <= 16
    assert 2 * ids.shape[1] < 40       tokens <= 19
    if ids.shape[1] == mask.shape[1]   nothing, where both are called tokens

Any other, such as `tokens % 8 == 0`, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sympy
from torch.export import ExportedProgram
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.solve import try_solve

from tbt_compile.errors import LoweringError
from tbt_compile.passes.capture_errors import line_of
from tbt_compile.passes.largest_values import size_of
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
    """A guard that is no range of one size."""


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
    for guard in _guards(program, shapes):
        found = list(_bounds(guard))
        if None in found:
            relation = PythonPrinter().doprint(guard.relation)
            raise InexpressibleError(
                f"{name} was captured for calls where {relation}{_at(guard.place)}: a compiled model keeps "
                "the smallest and the largest value of a size only; compute the same for all sizes, or pad "
                "to one that fits"
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
    for extent in (extent for shape in shapes for extent in shape.values()):
        (symbol,) = extent.free_symbols
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


def _assumed(extent: sympy.Expr, known: Mapping[sympy.Symbol, sympy.Expr]) -> int:
    """The smallest value of an extent where all dynamic dimensions are at least `_SMALLEST`."""
    (symbol,) = extent.free_symbols
    others = [other for other in known.values() if other.free_symbols == {symbol}]
    least = max(_SMALLEST - int(other.subs(symbol, 0)) for other in others)
    return int(extent.subs(symbol, least))


def _bounds(guard: Guard) -> Iterator[SizeBound | None]:
    """The bounds that a guard sets; None if it is no range of one size."""
    if guard.relation == sympy.true:
        return
    if isinstance(guard.relation, sympy.And):
        for part in guard.relation.args:
            yield from _bounds(Guard(part, guard.place))
        return
    solved = _solved(guard.relation)
    if solved is None:
        yield None
        return
    symbol, relation, limit = solved
    largest = isinstance(relation, (sympy.Lt, sympy.Le))
    if isinstance(relation, sympy.Lt):
        whole = sympy.ceiling(limit) - 1
    elif isinstance(relation, sympy.Gt):
        whole = sympy.floor(limit) + 1
    else:
        whole = sympy.floor(limit) if largest else sympy.ceiling(limit)
    side = "beyond" if largest else "below"
    reason = f"the forward takes another branch {side} ({guard.place})" if guard.place else UNKNOWN
    yield SizeBound(str(symbol), int(whole), largest, reason)


def _solved(relation: Any) -> tuple[sympy.Symbol, Any, Any] | None:
    """The size, the relation solved for it, and its limit, if the relation is a range of one size."""
    if len(relation.free_symbols) != 1:
        return None
    (symbol,) = relation.free_symbols
    solved = try_solve(relation, symbol)
    if solved is None or not solved[1].is_number or not isinstance(solved[0], _RANGES):
        return None
    return symbol, *solved


_RANGES = (sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge)


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _place(location: Any) -> str:
    """The file, line and text of a branch in a model's code: "gpt.py:12: if ids.shape[1] > 16"."""
    frame = location.framework_loc
    return "" if frame is None or isinstance(frame, str) else line_of(frame.filename, frame.lineno)
