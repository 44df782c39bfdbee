"""Fold the `repeat_kv` of grouped-query attention: pack each shared key and value head once.

The model repeats each head of keys and values for the query heads that share it. Quantization commutes with
the repeat, and the attention operators take packed keys and values with fewer heads than the query.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from tbt_compile.ops.operands import operands, set_operand
from tbt_compile.passes.lowering.match import ATEN, PACKED_OPERAND, TBT, match_call, shape_of
from tbt_compile.passes.rewrite import RewritePass

BATCH, HEADS, TOKENS = 0, 1, 2  # dimensions of keys and values `[B, H, T, D]`


def unrepeated(node: Any) -> fx.Node | None:
    """The source `[B, H, T, D]` of a head repeat `node` `[B, H * n, T, D]`; None for any other node.

    The pattern is `x.unsqueeze(2).expand(B, H, n, T, D).reshape(B, H * n, T, D)`.
    """
    reshape = match_call(node, ATEN.reshape.default, ATEN.view.default)
    expand = match_call(reshape.self, ATEN.expand.default) if reshape else None
    unsqueeze = match_call(expand.self, ATEN.unsqueeze.default) if expand else None
    if reshape is None or unsqueeze is None or unsqueeze.dim != HEADS + 1:
        return None
    source: fx.Node = unsqueeze.self
    heads, copies = (int(size) for size in shape_of(reshape.self)[HEADS : HEADS + 2])
    before, after = shape_of(source), shape_of(node)
    if len(after) != 4 or after[HEADS] != heads * copies or after[TOKENS] != before[TOKENS]:
        return None
    if str(after[BATCH]) != str(before[BATCH]):
        return None
    return source


class FoldRepeatKV(RewritePass):
    """Removes head repeats before the packing of keys and values.

    Needs: fused attention products in a cleaned-up graph. Leaves: packed keys and values with the head count
    of the model's cache.
    """

    name = "fold-repeat-kv"
    targets = (TBT.pack_keys.default, TBT.pack_values.default)

    def rewrite(self, node: fx.Node) -> bool:
        """`pack_keys(repeat_kv(k))` -> `pack_keys(k)`; the same for values."""
        operand = PACKED_OPERAND[node.target]
        source = unrepeated(vars(operands(node))[operand])
        if source is not None:
            set_operand(node, operand, source)
        return source is not None
