"""Convert normalisation layers. Norms over the last dimension have kernels; leading dimensions are rows."""

from __future__ import annotations

from math import prod
from typing import Any

from tbt_compile.codegen.importer.registry import ATEN, TBT, Call, converter
from tbt_compile.codegen.kernels.float_ops import norms
from tbt_compile.codegen.tvm_api import Expr, relax

_EPSILON = 2.0**-23  # torch's default for an eps of None


@converter(TBT.add_layer_norm.default)
def convert_add_layer_norm(call: Call) -> Expr:
    """`tbt::add_layer_norm(x, residual, weight, bias, eps)`: layer norm of `x + residual`."""
    op, shape, rows = call.operands, list(call.operands.x.ty.shape), _rows(call.operands.x)
    spec = norms.NormSpec(int(shape[-1]), float(op.eps), call.isa, residual=True)
    args = [call.reshape(op.x, rows), call.reshape(op.residual, rows), op.weight, op.bias]
    return call.reshape(call.kernel(spec, norms.layer_norm, args, rows), shape)


@converter(ATEN.layer_norm.default)
def convert_layer_norm(call: Call) -> Expr:
    """`aten::layer_norm(input, normalized_shape, ...)` over the last dimension; several are left to TVM."""
    op = call.operands
    if len(op.normalized_shape) != 1:
        return call.default()
    affine = [_vector(call, op.weight, 1.0), _vector(call, op.bias, 0.0)]
    shape, rows = list(op.input.ty.shape), _rows(op.input)
    spec = norms.NormSpec(int(shape[-1]), float(op.eps), call.isa)
    y = call.kernel(spec, norms.layer_norm, [call.reshape(op.input, rows), *affine], rows)
    return call.reshape(y, shape)


@converter(ATEN.rms_norm.default)
def convert_rms_norm(call: Call) -> Expr:
    """`aten::rms_norm(input, normalized_shape, weight, eps)` over the last dimension.

    Raises:
        ValueError: `normalized_shape` has several dimensions.
    """
    op = call.operands
    if len(op.normalized_shape) != 1:
        raise ValueError("rms_norm over several dimensions has no kernel")
    shape, rows = list(op.input.ty.shape), _rows(op.input)
    spec = norms.NormSpec(int(shape[-1]), _EPSILON if op.eps is None else float(op.eps), call.isa)
    args = [call.reshape(op.input, rows), _vector(call, op.weight, 1.0)]
    return call.reshape(call.kernel(spec, norms.rms_norm, args, rows), shape)


@converter(ATEN.batch_norm.default)
def convert_batch_norm(call: Call) -> Expr:
    """`aten::batch_norm(input, ...)` of `[N, C, ...]` in eval mode, with running statistics `[C]`.

    Raises:
        ValueError: there are no running statistics, so a row would depend on its batch.
    """
    op = call.operands
    if op.running_mean is None or op.running_var is None:
        raise ValueError("a batch norm without running statistics depends on the batch")
    channels, trailing = op.running_mean.ty.shape[0], [1] * (len(op.input.ty.shape) - 2)

    def per_channel(value: Expr) -> Expr:
        return call.emit(relax.op.reshape(value, [1, channels, *trailing]))

    eps = relax.const(float(op.eps), "float32")
    factor = call.emit(relax.op.rsqrt(call.emit(relax.op.add(op.running_var, eps))))
    if op.weight is not None:
        factor = call.emit(relax.op.multiply(factor, op.weight))
    centred = call.emit(relax.op.subtract(op.input, per_channel(op.running_mean)))
    y = call.emit(relax.op.multiply(centred, per_channel(factor)))
    return y if op.bias is None else call.emit(relax.op.add(y, per_channel(op.bias)))


@converter(ATEN._native_batch_norm_legit_no_training.default)
def convert_native_batch_norm(call: Call) -> Expr:
    """`aten::_native_batch_norm_legit_no_training(input, ...)`, which PyTorch makes of a batch norm."""
    op = call.operands
    return relax.Tuple((convert_batch_norm(call), op.running_mean, op.running_var))


def _rows(x: Expr) -> list[Any]:
    """The shape of `x` as a matrix of rows."""
    *lead, width = x.ty.shape
    return [prod(lead), width]


def _vector(call: Call, value: Expr | None, fill: float) -> Expr:
    """A weight or bias `[D]`; for None, a vector of `fill`."""
    if value is not None:
        return value
    (length,) = call.operands.normalized_shape
    return call.emit(relax.op.full([length], relax.const(fill, "float32"), "float32"))
