"""Convert pointwise operators: arithmetic, selects, casts and activation functions."""

from __future__ import annotations

from itertools import permutations
from math import copysign, prod

from tbt_compile.codegen.importer.float_bits import c_function, has_keys, times_zero
from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.kernels.float_ops import activations
from tbt_compile.codegen.tvm_api import Expr, ir, relax, static_size
from tbt_compile.dtypes import dtype_name


@converter(ATEN.add.Tensor)
def convert_add(call: Call) -> Expr:
    """`aten::add(self, other, *, alpha)` of tensors and scalars; a symbolic `other` adds in int64.

    TVM rejects the sum of a symbolic size, an int64, and a tensor of another dtype, and ignores `alpha`.

    Raises:
        ValueError: `alpha` is not 1.
    """
    x, y = call.operands.self, call.operands.other
    if call.operands.alpha != 1:
        raise ValueError("add: alpha is not 1")
    kinds = [type(getattr(term, "ty", None)) for term in (x, y)]
    if kinds == [relax.TensorType, ir.PrimType] and str(x.ty.dtype) != "int64":
        total = call.emit(relax.op.add(call.emit(relax.op.astype(x, "int64")), y))
        return call.emit(relax.op.astype(total, x.ty.dtype))
    return call.default()


@converter(ATEN.sub.Tensor)
def convert_sub(call: Call) -> Expr:
    """`aten::sub(self, other, *, alpha)`, left to TVM.

    Raises:
        ValueError: `alpha` is not 1; TVM would ignore it.
    """
    if call.operands.alpha != 1:
        raise ValueError("sub: alpha is not 1")
    return call.default()


@converter(ATEN.rsub.Scalar)
def convert_rsub(call: Call) -> Expr:
    """`aten::rsub(self, other)`, which is other - self."""
    x = call.operands.self
    return call.emit(relax.op.subtract(relax.const(call.operands.other, x.ty.dtype), x))


@converter(ATEN.mul.Tensor)
def convert_mul(call: Call) -> Expr:
    """`aten::mul(self, other)`; TVM folds a product of floats and 0 to 0, also that of NaN."""
    for x, factor in permutations((call.operands.self, call.operands.other)):
        if isinstance(factor, (int, float)) and factor == 0 and has_keys(str(x.ty.dtype)):
            zeros = call.compute(times_zero, x)
            return zeros if copysign(1.0, factor) > 0 else call.emit(relax.op.negative(zeros))
    return call.default()


@converter(ATEN.mul.Scalar)
def convert_mul_scalar(call: Call) -> Expr:
    """`aten::mul(self, other)` with a number."""
    return convert_mul(call)


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
    if exponent in (0.5, -0.5):
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


@converter(ATEN.where.ScalarOther)
def convert_where_scalar_other(call: Call) -> Expr:
    """`aten::where.ScalarOther(condition, self, other)`; `other` is a scalar."""
    op = call.operands
    return call.emit(relax.op.where(op.condition, op.self, relax.const(op.other, op.self.ty.dtype)))


@converter(ATEN.where.ScalarSelf)
def convert_where_scalar_self(call: Call) -> Expr:
    """`aten::where.ScalarSelf(condition, self, other)`; `self` is a scalar."""
    op = call.operands
    return call.emit(relax.op.where(op.condition, relax.const(op.self, op.other.ty.dtype), op.other))


@converter(ATEN.masked_fill.Scalar)
def convert_masked_fill(call: Call) -> Expr:
    """`aten::masked_fill(self, mask, value)`; the value may be infinite."""
    x, mask = call.operands.self, call.operands.mask
    return call.emit(relax.op.where(mask, relax.const(call.operands.value, x.ty.dtype), x))


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
    below = emit(relax.op.minimum(zero, emit(relax.op.multiply(grown, alpha))))
    return emit(relax.op.add(emit(relax.op.maximum(zero, x)), below))


def _of_c_library(call: Call, function: str) -> Expr:
    return call.compute(c_function, call.operands.self, name=function)


def _activation(call: Call, function: str) -> Expr:
    """Call the elementwise kernel of one of `ACTIVATIONS`."""
    x, shape = call.operands.self, list(call.operands.self.ty.shape)
    # The row length of the kernel is static; with a symbolic last dimension, use rows of one element.
    static = bool(shape) and static_size(shape[-1]) is not None
    rows = [prod(shape[:-1]), shape[-1]] if static else [prod(shape), 1]
    spec = activations.ActivationSpec(function, int(rows[-1]), call.isa)
    return call.reshape(call.kernel(spec, activations.activation, [call.reshape(x, rows)], rows), shape)
