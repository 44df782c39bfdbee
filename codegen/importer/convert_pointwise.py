"""Convert pointwise operators: powers, selects, casts and activation functions."""

from __future__ import annotations

from math import prod

from tbt_compile.codegen.importer.float_bits import c_function
from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.kernels.float_ops import activations
from tbt_compile.codegen.tvm_api import Expr, relax, static_size
from tbt_compile.dtypes import dtype_name


@converter(ATEN.expm1.default)
def convert_expm1(call: Call) -> Expr:
    """`aten::expm1(self)` by the C library: TVM's exp(x) - 1 has no correct digits for small x."""
    return _of_c_library(call, "expm1")


@converter(ATEN.log1p.default)
def convert_log1p(call: Call) -> Expr:
    """`aten::log1p(self)` by the C library: TVM's log(1 + x) has no correct digits for small x."""
    return _of_c_library(call, "log1p")


@converter(ATEN.pow.Tensor_Scalar)
def convert_pow(call: Call) -> Expr:
    """`aten::pow(self, exponent)`; squares, cubes and roots are computed as in torch, others left to TVM."""
    x, exponent = call.operands.self, call.operands.exponent
    if isinstance(exponent, float) and exponent in (0.5, -0.5):
        root = call.emit(relax.op.sqrt(x))
        one = relax.const(1.0, x.ty.dtype)
        return root if exponent > 0 else call.emit(relax.op.divide(one, root))
    if exponent not in (2, 3):
        return call.default()
    square = call.emit(relax.op.multiply(x, x))
    return square if exponent == 2 else call.emit(relax.op.multiply(square, x))


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


@converter(ATEN.exp.default)
def convert_exp(call: Call) -> Expr:
    """`aten::exp(self)`."""
    return _activation(call, "exp")


@converter(ATEN.log.default)
def convert_log(call: Call) -> Expr:
    """`aten::log(self)`, the natural logarithm."""
    return _activation(call, "log")


@converter(ATEN.sin.default)
def convert_sin(call: Call) -> Expr:
    """`aten::sin(self)`."""
    return _activation(call, "sin")


@converter(ATEN.cos.default)
def convert_cos(call: Call) -> Expr:
    """`aten::cos(self)`."""
    return _activation(call, "cos")


@converter(ATEN.tanh.default)
def convert_tanh(call: Call) -> Expr:
    """`aten::tanh(self)`."""
    return _activation(call, "tanh")


@converter(ATEN.sigmoid.default)
def convert_sigmoid(call: Call) -> Expr:
    """`aten::sigmoid(self)`."""
    return _activation(call, "sigmoid")


@converter(ATEN.erf.default)
def convert_erf(call: Call) -> Expr:
    """`aten::erf(self)`."""
    return _activation(call, "erf")


@converter(ATEN.celu.default)
def convert_celu(call: Call) -> Expr:
    """`aten::celu(self, alpha)`: max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)."""
    emit, x = call.emit, call.operands.self
    alpha, zero, one = (relax.const(float(value), "float32") for value in (call.operands.alpha, 0, 1))
    grown = emit(relax.op.subtract(emit(relax.op.exp(emit(relax.op.divide(x, alpha)))), one))
    below = emit(relax.op.minimum(zero, emit(relax.op.multiply(grown, alpha))))
    return emit(relax.op.add(emit(relax.op.maximum(zero, x)), below))


def _of_c_library(call: Call, function: str) -> Expr:
    return call.compute(c_function, call.operands.self, name=function)


def _activation(call: Call, function: str) -> Expr:
    """Call the elementwise kernel of one of `ACTIVATIONS`; dtypes other than float32 are left to TVM."""
    if str(call.operands.self.ty.dtype) != "float32":
        return call.default()
    x, shape = call.operands.self, list(call.operands.self.ty.shape)
    # The row length of the kernel is static; with a symbolic last dimension, use rows of one element.
    static = bool(shape) and static_size(shape[-1]) is not None
    rows = [prod(shape[:-1]), shape[-1]] if static else [prod(shape, start=1), 1]
    spec = activations.ActivationSpec(function, int(rows[-1]), call.isa)
    flat = call.emit(relax.op.reshape(x, rows))
    return call.emit(relax.op.reshape(call.kernel(spec, activations.activation, [flat], rows), shape))
