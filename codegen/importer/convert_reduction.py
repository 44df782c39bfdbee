"""Convert softmax, over attention scores and over any dimension."""

from __future__ import annotations

from math import prod
from typing import Any

from tbt_compile.codegen.importer.registry import ATEN, TBT, Call, converter
from tbt_compile.codegen.kernels.float_ops import softmax
from tbt_compile.codegen.tvm_api import Expr


@converter(TBT.masked_softmax.default)
def convert_masked_softmax(call: Call) -> Expr:
    """`tbt::masked_softmax(scores, mask, scale)`: scores `[B, H, Q, T]`, mask `[B, 1, Q, T]` or None."""
    scores, mask, scale = call.operands.scores, call.operands.mask, call.operands.scale
    spec = softmax.SoftmaxSpec(call.isa, float(scale), mask is not None)
    return call.kernel(spec, softmax.softmax, [scores] if mask is None else [scores, mask], scores.ty.shape)


@converter(ATEN.softmax.int)
def convert_softmax(call: Call) -> Expr:
    """`aten::softmax(self, dim)` of float32 over the last dimension; others are left to TVM."""
    x, shape = call.operands.self, list(call.operands.self.ty.shape)
    if call.operands.dim not in (-1, len(shape) - 1) or str(x.ty.dtype) != "float32":
        return call.default()
    rows: list[Any] = shape if len(shape) == 4 else [1, 1, prod(shape[:-1]), shape[-1]]
    y = call.kernel(softmax.SoftmaxSpec(call.isa), softmax.softmax, [call.reshape(x, rows)], rows)
    return call.reshape(y, shape)
