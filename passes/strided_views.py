"""Views by strides, `x.as_strided(size, stride)`, read a flat tensor: x, in the order of its storage.

Strides count elements of the storage, whose order is that of the dimensions of x if nothing was transposed.
Later passes replace tensors by equal ones that lie in memory in another way; a flat one has no other.
"""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from tbt_compile.ops.operands import operands
from tbt_compile.passes.largest_values import size_of
from tbt_compile.passes.lazy_code import recompile_later

_ATEN = torch.ops.aten


def flatten_strided(program: ExportedProgram) -> None:
    """Let every `as_strided` of a tensor that fills one piece of memory read it flat; in place."""
    for node in program.graph.find_nodes(op="call_function", target=_ATEN.as_strided.default):
        given = operands(node)
        x = given.self.meta["val"]
        order, offset = _order_in_memory(x), given.storage_offset
        if order is None or (offset is not None and not offset == x.storage_offset() == 0):
            continue
        with program.graph.inserting_before(node):
            rows = _call(node, _ATEN.permute.default, given.self, order)
            flat = _call(node, _ATEN.reshape.default, rows, [-1])
        node.args, node.kwargs = (flat, given.size, given.stride), {}
    recompile_later(program.graph_module)


def is_flat(x: Tensor) -> bool:
    """Whether a tensor is as `flatten_strided` makes it."""
    return x.dim() == 1 and x.stride() == (1,) and x.storage_offset() == 0


def _order_in_memory(x: Tensor) -> list[int] | None:
    """The dimensions from the one with the largest stride to the smallest; None if there are gaps."""
    sizes, strides = ([size_of(each) for each in found] for found in (x.shape, x.stride()))
    order, step = [dim for dim in range(x.dim()) if sizes[dim] == 1], sympy.S.One
    while len(order) < x.dim():
        left = (dim for dim in range(x.dim()) if dim not in order)
        dim = next((dim for dim in left if sympy.expand(strides[dim] - step) == 0), None)
        if dim is None:
            return None
        order.insert(0, dim)
        step *= sizes[dim]
    return order


def _call(node: fx.Node, target: Any, x: fx.Node, argument: list[int]) -> fx.Node:
    made = node.graph.call_function(target, (x, argument))
    value = x.meta["val"]
    made.meta = {**node.meta, "val": target(value, argument)}
    return made
