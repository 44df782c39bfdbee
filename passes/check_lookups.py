"""Make lookups do what PyTorch does: count negative indices from the end, and notice ones outside.

Divisions of integers by 0 are noticed in the same way.

    weight = table[(x * 3).long()]      also returns whether an index was outside of -20..19

Most indices are followed to the inputs, which are checked before the call. For one that is computed from
values, PyTorch raises where it leaves its table. A kernel has no exceptions, so the unit returns one number
per such lookup after its results, 1 if an index was outside, and the runtime raises. The lookup itself reads
the nearest row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import OutputKind, OutputSpec, TensorArgument
from torch.utils import _pytree as pytree

from tbt_compile.passes.check_divisors import described_division, unchecked_divisions
from tbt_compile.passes.index_bounds import Lookup, index_bounds, lookups_of
from tbt_compile.passes.lazy_code import recompile_later
from tbt_compile.passes.least_values import least_values
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.prepare.aten import described_owner

_ATEN = torch.ops.aten


def check_lookups(unit: LoweringContext) -> list[str]:
    """Let a unit return whether an index that cannot be followed is outside of its table, or a divisor 0.

    Args:
        unit: decomposed, not yet lowered.

    Returns:
        What is wrong if a check fails, for each lookup and each division by an integer, in the order of the
        new output, int64 [checks]. If there are none, there is no new output.
    """
    divisions = list(unchecked_divisions(unit.program))
    lookups = index_bounds(unit.program, extents=unit.extents).unknown
    if not lookups and not divisions:
        return []
    flags = [_kept(unit.graph, lookup) for lookup in lookups]
    flags += [_zero(unit.graph, node, divisor) for node, divisor in divisions]
    (output,) = unit.graph.find_nodes(op="output")
    with unit.graph.inserting_before(output):
        joined = _call(unit.graph, _ATEN.cat.default, flags)
    output.args = ((*output.args[0], joined),)
    unit.program.graph_signature.output_specs.append(
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(joined.name), None)
    )
    recompile_later(unit.program.graph_module)
    outside = "an index computed from the inputs leaves its table, "
    zero = "an integer is divided by 0, "
    return [
        *(outside + described(lookup, unit.root) for lookup in lookups),
        *(zero + described_division(node, unit.root) for node, _ in divisions),
    ]


def wrap_indices(unit: LoweringContext) -> None:
    """Add the size to negative indices of lookups with several, which TVM does not, in place."""
    least = least_values(unit.program)
    for node in list(unit.graph.find_nodes(op="call_function", target=_ATEN.index.Tensor)):
        lookups = list(lookups_of(node))
        for lookup in lookups if len(lookups) > 1 else ():
            known = least.get(lookup.index)
            if known is not None and known.source is None and known.offset >= 0:
                continue
            with unit.graph.inserting_before(node):
                _, last = _ends(unit.graph, lookup)
                ahead = _call(unit.graph, _ATEN.add.Tensor, lookup.index, last)
                wrapped = _call(unit.graph, _ATEN.add.Tensor, ahead, 1)
                negative = _call(unit.graph, _ATEN.lt.Scalar, lookup.index, 0)
                index = _call(unit.graph, _ATEN.where.self, negative, wrapped, lookup.index)
            node.replace_input_with(lookup.index, index)
    recompile_later(unit.program.graph_module)


def described(lookup: Lookup, root: str) -> str:
    """Name a lookup, and say which indices it takes.

    Args:
        lookup: the lookup.
        root: prefix of the module names that the user's model lacks.

    Returns:
        Such as "aten.embedding.default in module 'table' (Embedding): expected indices from 0 to 19".
    """
    where = described_owner(lookup.node, root)
    if not isinstance(lookup.rows, int):
        return f"{lookup.node.target} in {where}: expected indices into dimension {lookup.dim}"
    first = -lookup.rows if lookup.wraps else 0
    return f"{lookup.node.target} in {where}: expected indices from {first} to {lookup.rows - 1}"


def _kept(graph: fx.Graph, lookup: Lookup) -> fx.Node:
    """Keep an index in its table; returns int64 [1], whether one was outside."""
    index = lookup.index
    with graph.inserting_before(lookup.node):
        first, last = _ends(graph, lookup)
        kept = _call(graph, _ATEN.minimum.default, _call(graph, _ATEN.maximum.default, index, first), last)
        flag = _any(graph, _call(graph, _ATEN.ne.Tensor, kept, index))
    lookup.node.replace_input_with(index, kept)
    return flag


def _zero(graph: fx.Graph, node: fx.Node, divisor: fx.Node) -> fx.Node:
    """Returns int64 [1], whether an element of a divisor is 0."""
    with graph.inserting_before(node):
        return _any(graph, _call(graph, _ATEN.eq.Scalar, divisor, 0))


def _any(graph: fx.Graph, conditions: fx.Node) -> fx.Node:
    flat = _call(graph, _ATEN.reshape.default, conditions, [-1])
    return _call(graph, _ATEN.amax.default, _call(graph, _ATEN.to.dtype, flat, torch.int64), [0], True)


def _ends(graph: fx.Graph, lookup: Lookup) -> tuple[fx.Node, fx.Node]:
    """The smallest and the largest index into a table, scalars of the dtype of the index."""
    dtype = lookup.index.meta["val"].dtype
    if isinstance(lookup.rows, int):
        last = _scalar(graph, lookup.rows - 1, lookup)
        return _scalar(graph, -lookup.rows if lookup.wraps else 0, lookup), last
    size = _call(graph, _ATEN.sym_size.int, lookup.table, lookup.dim)
    places = _call(graph, _ATEN.arange.default, size, dtype=dtype, like=lookup)
    last = _call(graph, _ATEN.amax.default, places, [0], False)
    if not lookup.wraps:
        return _scalar(graph, 0, lookup), last
    return _call(graph, _ATEN.sub.Tensor, _call(graph, _ATEN.neg.default, last), 1), last


def _scalar(graph: fx.Graph, value: int, lookup: Lookup) -> fx.Node:
    dtype = lookup.index.meta["val"].dtype
    return _call(graph, _ATEN.full.default, [], value, dtype=dtype, like=lookup)


def _call(graph: fx.Graph, target: Any, *args: Any, like: Lookup | None = None, **kwargs: Any) -> fx.Node:
    """Insert a call whose meta has its result.

    Args:
        graph: with an insertion point.
        target: the operator.
        args: its operands.
        like: if no operand is a tensor, a lookup in the graph.
        kwargs: its operands by name.

    Returns:
        The call.
    """
    node = graph.call_function(target, args, kwargs)
    given, named = fx.map_arg((args, kwargs), lambda operand: operand.meta["val"])
    tensors: list[Any] = [value for value in pytree.tree_leaves(given) if isinstance(value, Tensor)]
    tensors += [] if like is None else [like.index.meta["val"]]
    with tensors[0].fake_mode:
        node.meta["val"] = target(*given, **named)
    return node
