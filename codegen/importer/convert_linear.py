"""Convert quantized and float32 linear layers; all leading dimensions become rows of one matrix product."""

from __future__ import annotations

from math import prod

from tbt_compile.codegen.importer.registry import ATEN, TBT, Call, converter
from tbt_compile.codegen.kernels.linear import float32, linear
from tbt_compile.codegen.tvm_api import Expr
from tbt_compile.encoding import Encoding


@converter(TBT.bit_linear.default)
def convert_bit_linear(call: Call) -> Expr:
    """`tbt::bit_linear(x, x_scale, packed, weight_scale, bias, ...)`: x `[..., K]` -> `[..., N]`."""
    op = call.operands
    *lead, _ = op.x.ty.shape
    rows, outputs = prod(lead), int(op.weight_scale.ty.shape[0])
    spec = linear.LinearSpec(
        outputs,
        op.columns,
        Encoding(op.x_encoding),
        Encoding(op.weight_encoding),
        op.center,
        op.bias is not None,
        call.isa,
        op.function,
    )
    bias = [] if op.bias is None else [op.bias]
    args = [call.reshape(op.x, [rows, op.columns]), op.x_scale, op.packed, op.weight_scale, *bias]
    return call.reshape(call.kernel(spec, linear.linear, args, [rows, outputs]), [*lead, outputs])


@converter(ATEN.linear.default)
def convert_linear(call: Call) -> Expr:
    """`aten::linear(input, weight, bias)` in float32: input `[..., K]`, weight `[N, K]` -> `[..., N]`."""
    x, weight, bias = call.operands.input, call.operands.weight, call.operands.bias
    *lead, _ = x.ty.shape
    rows, (outputs, columns) = prod(lead), (int(size) for size in weight.ty.shape)
    spec = float32.FloatLinearSpec(outputs, columns, bias is not None, call.isa)
    args = [call.reshape(x, [rows, columns]), weight, *([] if bias is None else [bias])]
    return call.reshape(call.kernel(spec, float32.linear_float, args, [rows, outputs]), [*lead, outputs])
