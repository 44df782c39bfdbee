"""Convert linear layers, quantized and float32, and products of float matrices.

All leading dimensions of a product with a matrix become rows.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tbt_compile.codegen.importer.registry import ATEN, TBT, Call, converter
from tbt_compile.codegen.kernels.dot import hadamard
from tbt_compile.codegen.kernels.float_ops.spec import AnySize
from tbt_compile.codegen.kernels.linear import float32, linear
from tbt_compile.codegen.tvm_api import Expr, relax, static_size
from tbt_compile.encoding import Encoding
from tbt_compile.ops.operands import operands


@converter(TBT.bit_linear.default)
def convert_bit_linear(call: Call) -> Expr:
    """`tbt::bit_linear(x, x_scale, packed, weight_scale, bias, ...)`: x `[..., K]` -> `[..., N]`."""
    op = call.operands
    *lead, _ = op.x.ty.shape
    rows, outputs = prod(lead), int(operands(call.node).packed.meta["val"].shape[0])
    x, weight = call.reshape(op.x, [rows, op.columns]), Encoding(op.weight_encoding)
    bias = [] if op.bias is None else [op.bias]
    if Encoding(op.x_encoding) is Encoding.FLOAT:
        groups = int(op.weight_scale.ty.shape[0]) // outputs
        stored = float32.FloatLinearSpec(
            outputs, op.columns, bool(bias), call.isa, weight, groups, op.function
        )
        args = [x, op.packed, op.weight_scale, *bias]
        product = call.kernel(stored, float32.linear_float, args, [rows, outputs])
        return call.reshape(product, [*lead, outputs])
    spec = linear.LinearSpec(
        outputs,
        op.columns,
        Encoding(op.x_encoding),
        weight,
        op.center,
        bool(bias),
        call.isa,
        op.function,
        op.floor or None,
        op.hadamard or None,
    )
    args = [x, op.x_scale, op.packed, op.weight_scale, *bias]
    return call.reshape(call.kernel(spec, linear.linear, args, [rows, outputs]), [*lead, outputs])


@converter(TBT.hadamard.default)
def convert_hadamard(call: Call) -> Expr:
    """`tbt::hadamard(x, block)` where no linear layer takes it over: x `[..., K]` -> `[..., K]`."""
    x = call.operands.x
    *lead, columns = x.ty.shape
    spec = hadamard.HadamardSpec(int(columns), call.operands.block, call.isa)
    rows = [prod(lead), columns]
    return call.reshape(call.kernel(spec, hadamard.hadamard, [call.reshape(x, rows)], rows), [*lead, columns])


@converter(ATEN.linear.default)
def convert_linear(call: Call) -> Expr:
    """`aten::linear(input, weight, bias)` in float32: input `[..., K]`, weight `[N, K]` -> `[..., N]`."""
    x, weight, bias = call.operands.input, call.operands.weight, call.operands.bias
    *lead, _ = x.ty.shape
    rows, (outputs, columns) = prod(lead), (int(size) for size in weight.ty.shape)
    spec = float32.FloatLinearSpec(outputs, columns, bias is not None, call.isa)
    args = [call.reshape(x, [rows, columns]), weight, *([] if bias is None else [bias])]
    return call.reshape(call.kernel(spec, float32.linear_float, args, [rows, outputs]), [*lead, outputs])


@converter(ATEN.mm.default)
def convert_mm(call: Call) -> Expr:
    """`aten::mm(self, mat2)`: `[M, K]`, `[K, N]` -> `[M, N]`."""
    return _product(call, call.operands.self, call.operands.mat2)


@converter(ATEN.bmm.default)
def convert_bmm(call: Call) -> Expr:
    """`aten::bmm(self, mat2)`: `[B, M, K]`, `[B, K, N]` -> `[B, M, N]`."""
    return _product(call, call.operands.self, call.operands.mat2)


@converter(ATEN.matmul.default)
def convert_matmul(call: Call) -> Expr:
    """`aten::matmul(self, other)`; products with vectors are left to TVM."""
    return _product(call, call.operands.self, call.operands.other)


@converter(ATEN.addmm.default)
def convert_addmm(call: Call) -> Expr:
    """`aten::addmm(self, mat1, mat2, *, beta, alpha)`."""
    return _added(call, call.operands.mat1, call.operands.mat2)


@converter(ATEN.baddbmm.default)
def convert_baddbmm(call: Call) -> Expr:
    """`aten::baddbmm(self, batch1, batch2, *, beta, alpha)`."""
    return _added(call, call.operands.batch1, call.operands.batch2)


def _product(call: Call, x: Expr, y: Expr) -> Expr:
    """The product of two float matrices, or of batches of them."""
    ranks = len(x.ty.shape), len(y.ty.shape)
    if min(ranks) < 2 or str(x.ty.dtype) != "float32":
        return call.emit(relax.op.matmul(x, y))
    *lead, length = x.ty.shape
    size, spec = y.ty.shape[-1], AnySize(call.isa)
    if ranks[1] == 2:
        columns = call.emit(relax.op.permute_dims(y, [1, 0]))
        rows = call.reshape(x, [prod(lead), length])
        product = call.kernel(spec, float32.dot_float, [rows, columns], [prod(lead), size])
        return call.reshape(product, [*lead, size])
    batch = _broadcast(list(x.ty.shape)[:-2], list(y.ty.shape)[:-2])
    operands = [_batched(call, each, batch) for each in (x, y)]
    product = call.kernel(spec, float32.matmul_float, operands, [prod(batch), lead[-1], size])
    return call.reshape(product, [*batch, lead[-1], size])


def _added(call: Call, x: Expr, y: Expr) -> Expr:
    op = call.operands
    scaled = [
        value
        if factor == 1
        else call.emit(relax.op.multiply(value, call.scalar(float(factor), value.ty.dtype)))
        for value, factor in ((_product(call, x, y), op.alpha), (op.self, op.beta))
    ]
    return call.emit(relax.op.add(*scaled))


def _broadcast(first: list[Any], second: list[Any]) -> list[Any]:
    """The batch dimensions of a product."""
    rank = max(len(first), len(second))
    first, second = ([1] * (rank - len(sizes)) + sizes for sizes in (first, second))
    return [b if static_size(a) == 1 else a for a, b in zip(first, second, strict=True)]


def _batched(call: Call, x: Expr, batch: list[Any]) -> Expr:
    """Matrices `[B, rows, columns]` for all batch dimensions."""
    shape = [*batch, *list(x.ty.shape)[-2:]]
    if [*map(str, x.ty.shape)] != [*map(str, shape)]:
        x = call.emit(relax.op.broadcast_to(x, shape))
    return call.reshape(x, [prod(batch), *shape[-2:]])
