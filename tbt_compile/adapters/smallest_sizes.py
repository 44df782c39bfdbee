"""Whether a captured graph computes what the model computes, above all at the smallest sizes.

These leave no guards: torch.export takes a dynamic size to be at least 2. A forward that asks whether it is 1
gets the answer no, once and for all. So such calls are made, with the model and with the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from tbt_compile.adapters.repeatable import drawn
from tbt_compile.errors import LoweringError
from tbt_compile.passes.export import run_program
from tbt_compile.passes.size_guards import InexpressibleError, Shape, smallest
from tbt_compile.size_bounds import SizeBound, broken

_FAILS, _DIFFERS = "the forward fails below", "the forward takes another branch below"


def smallest_sizes(
    program: ExportedProgram,
    unit: nn.Module,
    args: tuple[Any, ...],
    shapes: Sequence[Shape],
    bounds: Sequence[SizeBound],
) -> list[SizeBound]:
    """Call a module and its graph as they are, and with sizes at their smallest, one by one and all together.

    Args:
        program: the graph.
        unit: the module, in evaluation mode.
        args: example inputs.
        shapes: the dynamic dimensions of the inputs, in order.
        bounds: of the sizes, as known so far.

    Returns:
        A bound for every size at whose smallest value the module computes something else, or fails.

    Raises:
        LoweringError: it computes something else in the example's call.
        InexpressibleError: only where all sizes are the smallest, it computes something else.
    """
    leaves, structure = pytree.tree_flatten(args)
    example = {
        symbol: leaf.shape[dim] - int(extent.subs(symbol, 0))
        for leaf, shape in zip(leaves, shapes, strict=True)
        for dim, extent in shape.items()
        for symbol in extent.free_symbols
        if len(extent.free_symbols) == 1
    }
    least = {
        symbol: value
        for symbol, value in smallest(shapes).items()
        if broken(bounds, {str(symbol): value}) is None
    }

    def outcome(symbols: Iterable[sympy.Symbol]) -> str:
        """What is wrong with a call of which these sizes are the smallest, if anything."""
        small = {symbol: least[symbol] for symbol in symbols}
        inputs = [_shrunk(leaf, shape, small, example) for leaf, shape in zip(leaves, shapes, strict=True)]
        with torch.no_grad():
            try:
                expected = pytree.tree_leaves(unit(*pytree.tree_unflatten(inputs, structure)))
            except Exception as error:  # whatever a user's forward raises
                # The numbers that divide are drawn, or those of the example: not a matter of sizes.
                return "" if "ZeroDivision" in f"{type(error).__name__} {error}" else _FAILS
        try:
            found = run_program(program, inputs)
        except Exception:  # sizes that do not fit the graph
            return _DIFFERS
        return "" if len(found) == len(expected) and all(map(_equal, found, expected)) else _DIFFERS

    if outcome(()) == _DIFFERS:
        raise LoweringError(
            f"the graph that was captured of {type(unit.model).__name__} does not compute what its forward "
            "does: expected one that computes the same when it is traced; run the frozen model in eager mode"
        )
    reasons = {symbol: outcome([symbol]) for symbol in least}
    found = [
        SizeBound(str(symbol), least[symbol] + 1, False, reason)
        for symbol, reason in reasons.items()
        if reason
    ]
    if len(least) > 1 and not found and outcome(least) == _DIFFERS:
        sizes = " and ".join(f"{symbol} == {value}" for symbol, value in least.items())
        raise InexpressibleError(
            f"the forward of {type(unit.model).__name__} takes another branch where {sizes}: a compiled "
            "model keeps the smallest value of each size only; compute the same for all sizes"
        )
    return found


def _shrunk(
    value: Tensor, shape: Shape, small: dict[sympy.Symbol, int], sizes: dict[sympy.Symbol, int]
) -> Tensor:
    """An input of small sizes, with random floats.

    Args:
        value: of the example.
        shape: its dynamic dimensions.
        small: the sizes that are small.
        sizes: all sizes of the example.
    """
    for dim, extent in shape.items():
        if extent.free_symbols & small.keys():
            value = value.narrow(dim, 0, int(extent.subs({**sizes, **small})))
    return drawn(value)


def _equal(found: Any, expected: Any) -> bool:
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return bool(found == expected)
    return found.shape == expected.shape and torch.allclose(found, expected, equal_nan=True)
