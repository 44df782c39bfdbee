"""Convert views by strides, `x.as_strided(size, stride)`; TVM takes those that overlap for reshapes."""

from __future__ import annotations

from operator import mul
from typing import Any

import sympy

from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, te
from tbt_compile.ops.operands import operands
from tbt_compile.passes.largest_values import size_of
from tbt_compile.passes.strided_views import is_flat


@converter(ATEN.as_strided.default)
def convert_as_strided(call: Call) -> Expr:
    """`aten::as_strided(self, size, stride)` of a flat tensor, as captured graphs have it.

    Raises:
        ValueError: the tensor is not flat, or elements beyond its last one may be read.
    """
    op, given = call.operands, operands(call.node)
    x = given.self.meta["val"]
    if not is_flat(x) or given.storage_offset is not None:
        raise ValueError("its tensor does not fill one piece of memory from the start: make it contiguous")
    pairs = zip(given.size, given.stride, strict=True)
    last = sum(((size_of(count) - 1) * size_of(step) for count, step in pairs), sympy.S.Zero)
    if not sympy.expand(size_of(x.shape[0]) - 1 - last).is_nonnegative:
        raise ValueError("elements beyond the last one of its tensor may be read")

    def strided(x: Any, size: Any, stride: Any) -> Any:
        return te.compute(size, lambda *at: x(sum(map(mul, at, stride))), "strided")

    return call.compute(strided, op.self, list(op.size), list(op.stride))
