"""Convert embedding lookups in packed and float32 tables.

Ids are int64 of any shape; results are float32 with one more dimension.
"""

from __future__ import annotations

from math import prod

from tbt_compile.codegen.importer.registry import ATEN, TBT, Call, converter
from tbt_compile.codegen.kernels.dot.stored_rows import StoredSpec
from tbt_compile.codegen.kernels.linear import embedding
from tbt_compile.codegen.layouts import Layout
from tbt_compile.codegen.tvm_api import Expr, relax
from tbt_compile.encoding import Encoding
from tbt_compile.ops.operands import operands


@converter(TBT.bit_embedding.default)
def convert_bit_embedding(call: Call) -> Expr:
    """`tbt::bit_embedding(ids, packed, weight_scale, ...)`: rows `[..., columns]` of a packed table.

    A linear layer that shares the table decides its layout; `bind` leaves it in the meta of the placeholder.
    """
    op = call.operands
    shape, stored = list(op.ids.ty.shape), operands(call.node).packed.meta
    rows, layout = int(stored["val"].shape[0]), stored.get("layout", Layout.PLANES)
    groups = int(op.weight_scale.ty.shape[0]) // rows
    spec = StoredSpec(rows, op.columns, Encoding(op.weight_encoding), layout, call.isa, groups)
    args = [call.reshape(op.ids, [prod(shape)]), op.packed, op.weight_scale]
    y = call.kernel(spec, embedding.embedding, args, [prod(shape), op.columns])
    return call.reshape(y, [*shape, op.columns])


@converter(ATEN.embedding.default)
def convert_embedding(call: Call) -> Expr:
    """`aten::embedding(weight, indices)`; ids out of range are clipped to avoid reads out of bounds."""
    return call.emit(relax.op.take(call.operands.weight, call.operands.indices, axis=0, mode="clip"))
