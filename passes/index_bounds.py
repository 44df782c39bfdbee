"""Bounds on the inputs of an exported program, from the tables that its graph indexes.

An index that leaves its table is an error in PyTorch; a kernel would clip it, and give a wrong result. So the
bounds are found once, in the graph, and checked before every call:

    embedding(table[97, 32], ids)                        ids below 97
    embedding(table[66, 32], position_ids + 2)           position_ids below 64
    embedding(table[66, 32], arange(size(ids, 1)) + 2)   at most 64 tokens

A lookup whose index cannot be followed, `table[(x * 3).long()]`, is listed: it has to be checked in the call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram

from tbt_compile.ops.linear import bit_embedding
from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import target_name
from tbt_compile.passes.largest_values import Terms, largest_values, size_of
from tbt_compile.passes.least_values import Least, least_values

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


@dataclass(frozen=True)
class Lookup:
    """A call that indexes a table.

    Attributes:
        node: the call.
        table: what it indexes; the call itself if that makes a row per index, as `one_hot` does.
        dim: the indexed dimension.
        index: the indices.
        wraps: whether negative indices count from the end.
    """

    node: fx.Node
    table: fx.Node
    dim: int
    index: fx.Node
    wraps: bool

    @property
    def rows(self) -> int | torch.SymInt:
        """The size of the indexed dimension; may be dynamic."""
        return self.table.meta["val"].shape[self.dim]


@dataclass
class IndexBounds:
    """What the inputs of a program must satisfy for every index to stay inside its table.

    Attributes:
        below: exclusive upper bounds of integer inputs, by name.
        least: lower bounds of integer inputs, by name.
        sizes: largest values of dynamic sizes.
        unknown: the lookups that may leave their tables all the same.
    """

    below: dict[str, int] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    sizes: dict[sympy.Symbol, int] = field(default_factory=dict)
    unknown: list[Lookup] = field(default_factory=list)

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


def index_bounds(
    program: ExportedProgram,
    most: Mapping[str, int] | None = None,
    counts: Collection[str] = (),
    extents: Mapping[sympy.Symbol, sympy.Expr] | None = None,
) -> IndexBounds:
    """Find the bounds of a program.

    Args:
        program: an exported program.
        most: largest values of inputs that are checked elsewhere, by name, such as 1 for a mask.
        counts: the inputs that are checked elsewhere not to be negative, besides those in `most`.
        extents: what is known of the program's symbols, as expressions in fewer of them.

    Returns:
        The bounds.
    """
    bounds = IndexBounds()
    known = most or {}
    largest, least = largest_values(program, known), least_values(program, {*counts, *known})
    for node in program.graph.nodes:
        for lookup in lookups_of(node):
            followed = _stays_below(bounds, largest.get(lookup.index), size_of(lookup.rows), extents or {})
            if not _stays_above(bounds, least.get(lookup.index), lookup) or not followed:
                bounds.unknown.append(lookup)
    return bounds


def _stays_below(
    bounds: IndexBounds, terms: Terms, rows: sympy.Expr, extents: Mapping[sympy.Symbol, sympy.Expr]
) -> bool:
    """Require what keeps the largest value of an index below `rows`; return whether it can be said."""
    for source, offset in terms or ():
        if source is not None and offset.is_Integer and rows.is_Integer:
            _lower(bounds.below, source, int(rows - offset))
        elif source is None and rows.is_Integer and len(offset.free_symbols) == 1:
            (symbol,) = offset.free_symbols
            _lower(bounds.sizes, symbol, _largest(offset, symbol, int(rows) - 1))
        elif source is not None or not (rows - offset).xreplace(extents).is_positive:
            return False
    return terms is not None


def _stays_above(bounds: IndexBounds, least: Least | None, lookup: Lookup) -> bool:
    """Require what keeps the smallest value of an index in its table; return whether it can be said."""
    if least is None:
        return False
    first = -lookup.rows if lookup.wraps and isinstance(lookup.rows, int) else 0
    if least.source is None:
        return least.offset >= first
    needed = first - least.offset
    bounds.least[least.source] = max(needed, bounds.least.get(least.source, needed))
    return True


def _lower(bounds: dict[Any, int], key: Any, value: int) -> None:
    bounds[key] = min(value, bounds.get(key, value))


def _largest(size: sympy.Expr, symbol: sympy.Symbol, limit: int) -> int:
    """Return the largest value of `symbol` at which `size`, which grows with it, is at most `limit`."""
    low, high = 0, _HUGE
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size.subs(symbol, middle) <= limit else (low, middle - 1)
    return low


def lookups_of(node: fx.Node) -> Iterator[Lookup]:
    """Yield the lookups that a call makes."""
    if node.target is _ATEN.embedding.default:
        op = operands(node)
        found = [(op.weight, 0, op.indices, False)]
    elif node.target is bit_embedding.target:
        op = operands(node)
        found = [(op.packed, 0, op.ids, False)]
    elif node.target is _ATEN.one_hot.default:
        found = [(node, -1, operands(node).self, False)]
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
        if index.meta["val"].dtype is not torch.bool:
            yield Lookup(node, table, dim, index, wraps)
