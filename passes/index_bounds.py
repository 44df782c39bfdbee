"""Bounds on the inputs of an exported program, from the tables that its graph indexes.

An index that leaves its table is an error in PyTorch. Compiled kernels clip it instead, which gives a wrong
result. So the bounds are found once, in the graph, and checked before every call:

    embedding(table[97, 32], ids)                        ids below 97
    embedding(table[66, 32], position_ids + 2)           position_ids below 64
    embedding(table[66, 32], arange(size(ids, 1)) + 2)   at most 64 tokens

An index whose largest value is unknown bounds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram

from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import target_name
from tbt_compile.passes.largest_values import Terms, largest_values, size_of

_ATEN = torch.ops.aten
_HUGE = 2**40
_BY_DIMENSIONS = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default)
_ASSIGNMENTS = (
    *(_ATEN.index_fill, _ATEN.index_fill_),
    *(_ATEN.scatter, _ATEN.scatter_, _ATEN.scatter_add, _ATEN.scatter_add_),
    *(_ATEN.scatter_reduce, _ATEN.scatter_reduce_, _ATEN.index_add, _ATEN.index_add_),
    *(_ATEN.index_copy, _ATEN.index_copy_),
)
"""Operators that write to a tensor at indices along one dimension."""


@dataclass
class IndexBounds:
    """What the inputs of a program must satisfy for every index to stay inside its table.

    Attributes:
        below: exclusive upper bounds of integer inputs, by name.
        wrapping: inputs among them that may be negative, like Python's indices.
        sizes: largest values of dynamic sizes.
    """

    below: dict[str, int] = field(default_factory=dict)
    wrapping: set[str] = field(default_factory=set)
    sizes: dict[sympy.Symbol, int] = field(default_factory=dict)

    def longest(self, program: ExportedProgram, name: str, dim: int) -> int | None:
        """Return the largest size of one dimension of an input, or None if it is not bounded.

        Args:
            program: the analysed program.
            name: of the input.
            dim: of the input.

        Returns:
            The largest size.
        """
        node = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == name)
        size = size_of(node.meta["val"].shape[dim])
        if not size.free_symbols or not size.free_symbols <= self.sizes.keys():
            return None
        return int(size.subs(self.sizes))


def index_bounds(program: ExportedProgram, most: Mapping[str, int] | None = None) -> IndexBounds:
    """Find the bounds of a program.

    Args:
        program: an exported program; its guards on dynamic sizes count too.
        most: largest values of inputs that are checked elsewhere, by name, such as 1 for a mask.

    Returns:
        The bounds.
    """
    bounds = IndexBounds()
    for symbol, allowed in program.range_constraints.items():
        if allowed.upper.is_Integer:
            _lower(bounds.sizes, symbol, int(allowed.upper))
    values = largest_values(program, most or {})
    for node in program.graph.nodes:
        for rows, index, wraps in _lookups(node):
            _require(bounds, values.get(index), rows, wraps)
    return bounds


def _require(bounds: IndexBounds, terms: Terms, rows: int, wraps: bool) -> None:
    for source, offset in terms or ():
        if source is not None and offset.is_Integer:
            if wraps and offset == 0 and source not in bounds.below:
                bounds.wrapping.add(source)
            elif not wraps or offset != 0:
                bounds.wrapping.discard(source)
            _lower(bounds.below, source, rows - int(offset))
        elif source is None and len(offset.free_symbols) == 1:
            (symbol,) = offset.free_symbols
            _lower(bounds.sizes, symbol, _largest(offset, symbol, rows - 1))


def _lower(bounds: dict[Any, int], key: Any, value: int) -> None:
    bounds[key] = min(value, bounds.get(key, value))


def _largest(size: sympy.Expr, symbol: sympy.Symbol, limit: int) -> int:
    """Return the largest value of `symbol` at which `size`, which grows with it, is at most `limit`."""
    low, high = 0, _HUGE
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size.subs(symbol, middle) <= limit else (low, middle - 1)
    return low


def _lookups(node: fx.Node) -> Iterator[tuple[int, fx.Node, bool]]:
    """Yield rows, index and whether a negative index counts from the end, of every static table indexed."""
    if node.target is _ATEN.embedding.default:
        op = operands(node)
        found = [(op.weight, 0, op.indices, False)]
    elif node.target in (_ATEN.index_select.default, _ATEN.gather.default):
        op = operands(node)
        found = [(op.self, op.dim, op.index, False)]
    elif node.target in _BY_DIMENSIONS:
        op = operands(node)
        given = [(axis, index) for axis, index in enumerate(op.indices) if index is not None]
        found = [
            (op.self, axis, index, True) for axis, index in given if index.meta["val"].dtype != torch.bool
        ]
    elif getattr(node.target, "overloadpacket", None) in _ASSIGNMENTS:
        op = operands(node)
        found = [(op.self, op.dim, op.index, target_name(node).startswith("index_fill"))]
    else:
        return
    for table, dim, index, wraps in found:
        rows = table.meta["val"].shape[dim]
        if isinstance(rows, int):
            yield rows, index, wraps
