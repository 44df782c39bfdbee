"""Convert what makes tensors of one value, identity matrices and ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.importer.symbolic_numbers import is_fraction
from tbt_compile.codegen.tvm_api import Expr, relax
from tbt_compile.dtypes import dtype_name


@converter(ATEN.empty.memory_format)
def convert_empty(call: Call) -> Expr:
    """`aten::empty(size, *, dtype)` of static or symbolic size: zeros, as whatever is there may be read."""
    return filled(call, call.operands.size, 0)


@converter(ATEN.zeros.default)
def convert_zeros(call: Call) -> Expr:
    """`aten::zeros(size, *, dtype)` of static or symbolic size."""
    return filled(call, call.operands.size, 0)


@converter(ATEN.ones.default)
def convert_ones(call: Call) -> Expr:
    """`aten::ones(size, *, dtype)` of static or symbolic size."""
    return filled(call, call.operands.size, 1)


@converter(ATEN.new_ones.default)
def convert_new_ones(call: Call) -> Expr:
    """`aten::new_ones(self, size, *, dtype)` of static or symbolic size."""
    return filled(call, call.operands.size, 1)


@converter(ATEN.new_zeros.default)
def convert_new_zeros(call: Call) -> Expr:
    """`aten::new_zeros(self, size, *, dtype)` of static or symbolic size."""
    return filled(call, call.operands.size, 0)


@converter(ATEN.full.default)
def convert_full(call: Call) -> Expr:
    """`aten::full(size, fill_value, *, dtype)` of static or symbolic size."""
    return filled(call, call.operands.size, call.operands.fill_value)


@converter(ATEN.new_full.default)
def convert_new_full(call: Call) -> Expr:
    """`aten::new_full(self, size, fill_value, *, dtype)` of static or symbolic size."""
    return filled(call, call.operands.size, call.operands.fill_value)


@converter(ATEN.fill.Scalar)
def convert_fill_scalar(call: Call) -> Expr:
    """`aten::fill.Scalar(self, value)`."""
    return filled(call, call.operands.self.ty.shape, call.operands.value)


@converter(ATEN.zeros_like.default)
def convert_zeros_like(call: Call) -> Expr:
    """`aten::zeros_like(self, *, dtype)`; TVM ignores `dtype`."""
    return filled(call, call.operands.self.ty.shape, 0)


@converter(ATEN.ones_like.default)
def convert_ones_like(call: Call) -> Expr:
    """`aten::ones_like(self, *, dtype)`; TVM ignores `dtype`."""
    return filled(call, call.operands.self.ty.shape, 1)


@converter(ATEN.full_like.default)
def convert_full_like(call: Call) -> Expr:
    """`aten::full_like(self, fill_value, *, dtype)`; TVM ignores `dtype`."""
    return filled(call, call.operands.self.ty.shape, call.operands.fill_value)


@converter(ATEN.arange.start_step)
def convert_arange(call: Call) -> Expr:
    """`aten::arange(start, end, step, *, dtype)`; TVM gets the number of steps back wrong.

    Raises:
        ValueError: the step, or a fraction, is known at run time only.
    """
    start, end, step = call.operands.start, call.operands.end, call.operands.step
    dtype = call.node.meta["val"].dtype
    if all(isinstance(number, (int, float)) for number in (start, end, step)):
        values = torch.arange(start, end, step, dtype=dtype).numpy()
        return call.emit(relax.const(values, dtype_name(dtype)))
    if not isinstance(step, int) or any(map(is_fraction, (start, end))):
        raise ValueError(f"{call.node.target}: the step is known at run time only, or a bound is a fraction")
    if step > 0:
        return call.default()
    places = call.emit(relax.op.arange(0, (start - end - step - 1) // -step, 1, "int64"))
    back = call.emit(relax.op.multiply(places, relax.const(step, "int64")))
    found = call.emit(relax.op.add(back, call.scalar(start, "int64")))
    return call.emit(relax.op.astype(found, dtype_name(dtype)))


@converter(ATEN.linspace.default)
def convert_linspace(call: Call) -> Expr:
    """`aten::linspace(start, end, steps, *, dtype)` of numbers; PyTorch's values, which count from both ends.

    Raises:
        ValueError: a bound or the number of steps is known at run time only.
    """
    op, dtype = call.operands, call.node.meta["val"].dtype
    if not all(isinstance(number, (int, float)) for number in (op.start, op.end, op.steps)):
        raise ValueError(f"{call.node.target}: a bound or the number of steps is known at run time only")
    values = torch.linspace(op.start, op.end, op.steps, dtype=dtype).numpy()
    return call.emit(relax.const(values, dtype_name(dtype)))


@converter(ATEN.eye.default)
def convert_eye(call: Call) -> Expr:
    """`aten::eye(n, *, dtype)`; TVM needs the dtype."""
    return _identity(call, call.operands.n)


@converter(ATEN.eye.m)
def convert_eye_of_two_sizes(call: Call) -> Expr:
    """`aten::eye(n, m, *, dtype)`; TVM needs the dtype."""
    return _identity(call, call.operands.m)


def _identity(call: Call, columns: int) -> Expr:
    dtype = dtype_name(call.node.meta["val"].dtype)
    return call.emit(relax.op.eye(call.operands.n, columns, dtype=dtype))


def filled(call: Call, shape: Sequence[Any], value: Any) -> Expr:
    """A tensor of one value.

    Args:
        call: whose dtype it has, as the captured graph says.
        shape: of static or symbolic sizes.
        value: a number or an expression.

    Returns:
        The tensor.
    """
    dtype = dtype_name(call.node.meta["val"].dtype)
    if not isinstance(value, (int, float)) or not math.isfinite(value):  # TVM cannot lower a full of them
        return call.emit(relax.op.broadcast_to(call.scalar(value, dtype), list(shape)))
    return call.emit(relax.op.full(list(shape), relax.const(value, dtype), dtype))
