"""Sizes of an exported graph that turned out to be constants become integers.

A dimension that was to be dynamic may be fixed by the graph, for instance if the input is added to a buffer.
`torch.export` then keeps a `SymInt` whose expression is a number, which readers of the graph would take for a
symbol.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import SymInt, Tensor
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map


def constant_sizes(program: ExportedProgram) -> None:
    """Make the constant sizes and strides in the meta of every node integers, in place."""
    for node in program.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = tree_map(_with_integers, node.meta["val"])


def _with_integers(value: Any) -> Any:
    if isinstance(value, SymInt):
        return _integer(value)
    if not isinstance(value, Tensor) or not any(map(_is_constant, value.shape)):
        return value
    shape, strides = ([*map(_integer, sizes)] for sizes in (value.shape, value.stride()))
    with value.fake_mode:  # type: ignore[attr-defined]
        return torch.empty_strided(shape, strides, dtype=value.dtype, device=value.device)


def _integer(size: Any) -> Any:
    return int(size) if _is_constant(size) else size


def _is_constant(size: Any) -> bool:
    return isinstance(size, SymInt) and bool(size.node.expr.is_Integer)
