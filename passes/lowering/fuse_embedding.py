"""Fuse the unpacking of an embedding weight into the lookup: only the looked-up rows are unpacked."""

from __future__ import annotations

from torch import fx

from tbt_compile.passes.lowering.match import ATEN, TBT, factors, match_call, replace
from tbt_compile.passes.rewrite import RewritePass


def fuse(product: fx.Node) -> bool:
    """Rewrite `embedding(unpack(packed), ids) * embedding(scale, ids)`."""
    rows, scales = (match_call(factor, ATEN.embedding.default) for factor in factors(product) or (None, None))
    weight = match_call(rows.weight, TBT.unpack.default) if rows else None
    if rows is None or scales is None or weight is None or rows.indices is not scales.indices:
        return False
    replace(
        product,
        TBT.bit_embedding.default,
        ids=rows.indices,
        packed=weight.packed,
        weight_scale=scales.weight,
        weight_encoding=weight.encoding,
        columns=weight.columns,
    )
    return True


class FuseEmbedding(RewritePass):
    """Fuses unpack, lookup and scaling of quantized embeddings into `tbt::bit_embedding`.

    Needs: a cleaned-up graph of a frozen model. Leaves: no `aten::embedding` on codes.
    """

    name = "fuse-embedding"
    targets = (ATEN.mul.Tensor,)

    def rewrite(self, node: fx.Node) -> bool:
        """`embedding(unpack(packed), ids) * embedding(scale, ids)` -> `bit_embedding(ids, packed, scale)`."""
        return fuse(node)
