"""Squeezes of a captured graph that name a free dimension leave it alone.

`torch.export` takes a free size to be at least 2, which no squeeze removes, but the captured operator would
remove it from an input of size 1. A graph that computes the same for all sizes shows whether the model does:
`adapters.smallest_sizes` compares both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from tbt_compile.passes.lazy_code import recompile_later

_ATEN = torch.ops.aten
_SQUEEZES = (_ATEN.squeeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims)


def keep_free_dimensions(program: ExportedProgram) -> None:
    """Let every squeeze name the dimensions of size 1 only, where a free dimension is concerned; in place."""
    for node in list(program.graph.nodes):
        if node.target in _SQUEEZES:
            _keep(node)
    program.graph.lint()
    recompile_later(program.graph_module)


def _keep(node: fx.Node) -> None:
    x: Any = node.args[0]
    shape = x.meta["val"].shape
    named: Any = node.args[1] if len(node.args) > 1 else range(len(shape))
    dims = [dim % len(shape) for dim in ([named] if isinstance(named, int) else named)] if shape else []
    if all(isinstance(shape[dim], int) for dim in dims):
        return
    ones = [dim for dim in dims if isinstance(shape[dim], int) and shape[dim] == 1]
    if ones:
        node.target, node.args = _ATEN.squeeze.dims, (x, ones)
    else:
        node.replace_all_uses_with(x)
        node.graph.erase_node(node)
