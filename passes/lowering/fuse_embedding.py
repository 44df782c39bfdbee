"""Look rows up in the packed weight instead of unpacking all of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from tbt_compile.passes.base import PassResult
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.match import ATEN, TBT, factors, is_call, replace


def fuse(product: fx.Node) -> bool:
    """Rewrite `embedding(unpack(w), ids) * embedding(scale(w), ids)`."""
    rows, scales = factors(product) or (None, None)
    if not is_call(rows, ATEN.embedding.default) or not is_call(scales, ATEN.embedding.default):
        return False
    unpack, ids = rows.args[:2]  # type: ignore[union-attr]
    weight_scale, scale_ids = scales.args[:2]  # type: ignore[union-attr]
    if not is_call(unpack, TBT.unpack.default) or ids is not scale_ids:
        return False
    packed, encoding, columns = unpack.args
    replace(product, TBT.bit_embedding.default, (ids, packed, weight_scale, encoding, columns))
    return True


@dataclass(frozen=True)
class FuseEmbedding:
    """Replaces every quantized embedding by `tbt::bit_embedding`.

    Needs: a cleaned-up graph of a frozen model. Leaves: no `aten::embedding` on codes.
    """

    name: str = "fuse-embedding"

    def apply(self, context: LoweringContext) -> PassResult:
        fused = sum(fuse(node) for node in list(context.graph.nodes))
        context.graph.eliminate_dead_code()
        return PassResult(fused)
