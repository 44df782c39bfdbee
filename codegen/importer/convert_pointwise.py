"""Convert pointwise operators: powers, selects, casts and activation functions."""

from __future__ import annotations

from math import prod

from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.kernels.float_ops import activations
from tbt_compile.codegen.tvm_api import Expr, relax, static_size
from tbt_compile.dtypes import dtype_name


@converter(ATEN.pow.Tensor_Scalar)
def convert_pow(call: Call) -> Expr:
    """`aten::pow(self, exponent)`; squares and cubes are products, as in torch, other powers left to TVM."""
    x, exponent = call.operands.self, call.operands.exponent
    if exponent not in (2, 3):
        return call.default()
    square = call.emit(relax.op.multiply(x, x))
    return square if exponent == 2 else call.emit(relax.op.multiply(square, x))


@converter(ATEN.clamp.default)
def convert_clamp(call: Call) -> Expr:
    """`aten::clamp(self, min, max)` of floats; TVM cannot fold one without a bound."""
    x, low, high = call.operands.self, call.operands.min, call.operands.max
    if str(x.ty.dtype) != "float32" or not all(
        isinstance(bound, (int, float, type(None))) for bound in (low, high)
    ):
        return call.default()
    y = x if low is None else call.emit(relax.op.maximum(x, relax.const(float(low), "float32")))
    return y if high is None else call.emit(relax.op.minimum(y, relax.const(float(high), "float32")))


@converter(ATEN.to.device)
def convert_to_device(call: Call) -> Expr:
    """`aten::to.device(self, device, dtype)`: a cast, or a no-op, since there is one device."""
    x, dtype = call.operands.self, dtype_name(call.operands.dtype)
    return x if x.ty.dtype == dtype else call.emit(relax.op.astype(x, dtype))


@converter(ATEN.where.self)
def convert_where(call: Call) -> Expr:
    """`aten::where.self(condition, self, other)`; the condition may be an operand too."""
    dtype = dtype_name(call.node.meta["val"].dtype)
    condition = call.operands.condition
    values = (call.scalar(value, dtype) for value in (call.operands.self, call.operands.other))
    promoted = (x if x.ty.dtype == dtype else call.emit(relax.op.astype(x, dtype)) for x in values)
    return call.emit(relax.op.where(condition, *promoted))


@converter(ATEN.where.ScalarOther)
def convert_where_scalar_other(call: Call) -> Expr:
    """`aten::where.ScalarOther(condition, self, other)`; `other` is a scalar."""
    return convert_where(call)


@converter(ATEN.where.ScalarSelf)
def convert_where_scalar_self(call: Call) -> Expr:
    """`aten::where.ScalarSelf(condition, self, other)`; `self` is a scalar."""
    return convert_where(call)


@converter(ATEN.where.Scalar)
def convert_where_scalars(call: Call) -> Expr:
    """`aten::where.Scalar(condition, self, other)` of two scalars."""
    return convert_where(call)


@converter(ATEN.masked_fill.Scalar)
def convert_masked_fill(call: Call) -> Expr:
    """`aten::masked_fill(self, mask, value)`; the value may be infinite."""
    x, mask = call.operands.self, call.operands.mask
    return call.emit(relax.op.where(mask, call.scalar(call.operands.value, x.ty.dtype), x))


@converter(ATEN.masked_fill_.Scalar)
def convert_masked_fill_in_place(call: Call) -> Expr:
    """`aten::masked_fill_(self, mask, value)` of a tensor that nothing else reads."""
    return convert_masked_fill(call)


@converter(ATEN.gelu.default)
def convert_gelu(call: Call) -> Expr:
    """`aten::gelu(self, *, approximate)`, exact or by tanh."""
    return _activation(call, "gelu_tanh" if call.operands.approximate == "tanh" else "gelu")


@converter(ATEN.silu.default)
def convert_silu(call: Call) -> Expr:
    """`aten::silu(self)`: x * sigmoid(x)."""
    return _activation(call, "silu")


@converter(ATEN.celu.default)
def convert_celu(call: Call) -> Expr:
    """`aten::celu(self, alpha)`: max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)."""
    emit, x = call.emit, call.operands.self
    alpha, zero, one = (relax.const(float(value), "float32") for value in (call.operands.alpha, 0, 1))
    grown = emit(relax.op.subtract(emit(relax.op.exp(emit(relax.op.divide(x, alpha)))), one))
    below = emit(relax.op.minimum(emit(relax.op.multiply(grown, alpha)), zero))
    return emit(relax.op.add(emit(relax.op.maximum(x, zero)), below))


def _activation(call: Call, function: str) -> Expr:
    """Call the elementwise kernel of one of `ACTIVATIONS`."""
    x, shape = call.operands.self, list(call.operands.self.ty.shape)
    # The row length of the kernel is static; with a symbolic last dimension, use rows of one element.
    static = bool(shape) and static_size(shape[-1]) is not None
    rows = [prod(shape[:-1]), shape[-1]] if static else [prod(shape), 1]
    spec = activations.ActivationSpec(function, int(rows[-1]), call.isa)
    return call.reshape(call.kernel(spec, activations.activation, [call.reshape(x, rows)], rows), shape)
