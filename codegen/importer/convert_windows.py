"""Convert operators that look at a tensor through overlapping windows."""

from __future__ import annotations

import numpy as np

from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax, tirx


@converter(ATEN.unfold.default)
def convert_unfold(call: Call) -> Expr:
    """`aten::unfold(self, dimension, size, step)`; the elements of a window become the last dimension.

    PyTorch decomposes it into `as_strided`, which TVM has for contiguous strides only.

    Raises:
        ValueError: the size of the dimension is symbolic.
    """
    op, shape = call.operands, list(call.operands.self.ty.shape)
    axis = op.dimension % len(shape)
    if not isinstance(shape[axis], (int, tirx.IntImm)):
        raise ValueError("unfold: the size of the dimension is known at run time only")
    starts = np.arange(0, int(shape[axis]) - op.size + 1, op.step)
    places = (starts[:, None] + np.arange(op.size)).ravel()
    windows = call.emit(relax.op.take(op.self, relax.const(places, "int64"), axis=axis))
    split = [*shape[:axis], len(starts), op.size, *shape[axis + 1 :]]
    order = [*(place for place in range(len(split)) if place != axis + 1), axis + 1]
    return call.emit(relax.op.permute_dims(call.emit(relax.op.reshape(windows, split)), order))
