"""Masks of assignments have the sizes of what they select from: `h[mask] = 0`, mask `[B, T]`, h `[B, T, D]`.

PyTorch checks this when it runs the assignment, but `torch.export` does not: two dynamic sizes that any call
must give the same value stay two symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

_ASSIGNMENTS = frozenset({torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default})


def equal_mask_sizes(program: ExportedProgram) -> None:
    """Let every dynamic size of a mask be that of the dimension it selects from."""
    for node in program.graph.nodes:
        if node.target in _ASSIGNMENTS:
            for ours, other in _selected(node):
                assert ours == other, "the example satisfies it; comparing symbols makes them one"


def _selected(node: fx.Node) -> Iterator[tuple[Any, Any]]:
    """The sizes of the masks of an assignment, each with that of the dimension that it selects from."""
    changed, indices = node.args[:2]
    assert isinstance(changed, fx.Node) and isinstance(indices, (list, tuple))
    shape, axis = changed.meta["val"].shape, 0
    for index in indices:
        mask = index.meta["val"] if isinstance(index, fx.Node) else None
        if mask is None or mask.dtype not in (torch.bool, torch.uint8):
            axis += 1
            continue
        yield from zip(mask.shape, shape[axis : axis + mask.dim()], strict=True)
        axis += mask.dim()
