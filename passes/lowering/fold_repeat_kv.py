"""Leave keys and values that several query heads share as they are, instead of repeating them.

In grouped-query attention the model copies each head of keys and values once per query head. Quantizing a
copy gives a copy of what was quantized, so the copies can be left out where the operators on packed keys and
values take fewer heads than the query has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, TBT, is_call

HEADS = 1  # dimension of keys and values `[B, H, T, D]`
_PACKS = (TBT.pack_keys.default, TBT.pack_values.default)
_RESHAPES = (ATEN.reshape.default, ATEN.view.default)


def unrepeated(node: Any) -> fx.Node | None:
    """The tensor `[B, H, T, D]` of which `node` `[B, H * n, T, D]` holds every head n times, if so.

    The form is `x.unsqueeze(2).expand(B, H, n, T, D).reshape(B, H * n, T, D)`.
    """
    expand: Any = node.args[0] if any(is_call(node, target) for target in _RESHAPES) else None
    unsqueeze: Any = expand.args[0] if is_call(expand, ATEN.expand.default) else None
    if not is_call(unsqueeze, ATEN.unsqueeze.default) or unsqueeze.args[1] != HEADS + 1:
        return None
    source = unsqueeze.args[0]
    heads, copies = (int(size) for size in expand.meta["val"].shape[HEADS : HEADS + 2])
    before, after = source.meta["val"].shape, node.meta["val"].shape
    if len(after) != 4 or after[HEADS] != heads * copies or after[HEADS + 2] != before[HEADS + 2]:
        return None
    return source


@dataclass(frozen=True)
class FoldRepeatKV:
    """Takes the repetition of heads out from below the packing of keys and values.

    Needs: fused attention in a cleaned-up graph. Leaves: packed keys and values with as many heads as the
    model's cache has; their readers see fewer heads than the query's.
    """

    name: str = "fold-repeat-kv"

    def apply(self, context: LoweringContext) -> PassResult:
        changes = 0
        for node in context.graph.nodes:
            source = unrepeated(node.args[0]) if node.target in _PACKS else None
            if source is not None:
                node.args = (source, *node.args[1:])
                changes += 1
        context.graph.eliminate_dead_code()
        return PassResult(changes)
