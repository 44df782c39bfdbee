"""ATen operators of exported graphs that TVM's importer does not know, or does not compute as torch does."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import torch
from torch import fx

from tbt_compile.codegen.tvm_api import Expr, ir, relax

_LARGEST = 2**63 - 1  # an end of a slice, beyond any length


def convert_device(node: fx.Node, importer: Any) -> Expr:
    """`aten::to.device(x, device, dtype)`: there is one device, so this is a cast or nothing."""
    x, dtype = importer.env[node.args[0]], str(node.args[2]).removeprefix("torch.")
    return x if x.ty.dtype == dtype else importer.block_builder.emit(relax.op.astype(x, dtype))


def convert_where_scalar_other(node: fx.Node, importer: Any) -> Expr:
    """`aten::where.ScalarOther(condition, x, number)`."""
    condition, x, number = importer.env[node.args[0]], importer.env[node.args[1]], node.args[2]
    return importer.block_builder.emit(relax.op.where(condition, x, relax.const(number, x.ty.dtype)))


def convert_where_scalar_self(node: fx.Node, importer: Any) -> Expr:
    """`aten::where.ScalarSelf(condition, number, x)`."""
    condition, number, x = importer.env[node.args[0]], node.args[1], importer.env[node.args[2]]
    return importer.block_builder.emit(relax.op.where(condition, relax.const(number, x.ty.dtype), x))


def convert_new_ones(node: fx.Node, importer: Any) -> Expr:
    """`aten::new_ones` of a dtype given by keyword, of any shape."""
    dtype = str(node.kwargs.get("dtype") or torch.float32).removeprefix("torch.")
    shape = [importer.env[size] if isinstance(size, fx.Node) else size for size in node.args[1]]  # type: ignore[union-attr]
    return importer.block_builder.emit(relax.op.full(shape, relax.const(1, dtype), dtype))


def convert_embedding(node: fx.Node, importer: Any) -> Expr:
    """`aten::embedding` of a table in full precision; an index out of range is clipped, never read beyond."""
    table, ids = importer.env[node.args[0]], importer.env[node.args[1]]
    return importer.block_builder.emit(relax.op.take(table, ids, axis=0, mode="clip"))


def convert_power(node: fx.Node, importer: Any) -> Expr:
    """`aten::pow(x, number)`: squares and cubes are products, as in torch, which a general power is not."""
    x, exponent = importer.env[node.args[0]], node.args[1]
    if exponent not in (2, 3):
        return importer._pow(node)
    square = importer.block_builder.emit(relax.op.multiply(x, x))
    return square if exponent == 2 else importer.block_builder.emit(relax.op.multiply(square, x))


def convert_index_select(node: fx.Node, importer: Any) -> Expr:
    """`aten::index_select(x, dim, index)`; an index out of range is clipped, never read beyond."""
    x, dim, index = importer.env[node.args[0]], node.args[1], importer.env[node.args[2]]
    return importer.block_builder.emit(relax.op.take(x, index, axis=dim, mode="clip"))


def convert_select(node: fx.Node, importer: Any) -> Expr:
    """`aten::select(x, dim, index)`; an index below 0, which TVM reads out of bounds, counts from the end."""
    x, dim, index = importer.env[node.args[0]], int(node.args[1]), node.args[2]  # type: ignore[arg-type]
    end = _LARGEST if index == -1 else index + 1  # type: ignore[operator]
    part = importer.block_builder.emit(relax.op.strided_slice(x, [dim], [index], [end]))
    return importer.block_builder.emit(relax.op.squeeze(part, [dim]))


def convert_masked_fill(node: fx.Node, importer: Any) -> Expr:
    """`aten::masked_fill(x, mask, number)`; the number may be infinite."""
    x, mask, number = importer.env[node.args[0]], importer.env[node.args[1]], node.args[2]
    return importer.block_builder.emit(relax.op.where(mask, relax.const(number, x.ty.dtype), x))


def convert_batch_norm(node: fx.Node, importer: Any) -> Expr:
    """`aten::batch_norm(x [N, C, ...], weight, bias, mean, variance, training, momentum, eps)` in eval mode.

    Raises:
        ValueError: the module keeps no statistics, so that a row would depend on its batch.
    """
    x, weight, bias, mean, variance = (importer.env.get(argument) for argument in node.args[:5])
    if mean is None or variance is None:
        raise ValueError("a batch norm without running statistics depends on the batch")
    emit = importer.block_builder.emit

    def per_channel(value: Expr) -> Expr:
        return emit(relax.op.reshape(value, [1, mean.ty.shape[0], *[1] * (len(x.ty.shape) - 2)]))

    eps = relax.const(float(node.args[7]), "float32")  # type: ignore[arg-type]
    factor = emit(relax.op.rsqrt(emit(relax.op.add(variance, eps))))
    factor = factor if weight is None else emit(relax.op.multiply(factor, weight))
    centred = emit(relax.op.subtract(x, per_channel(mean)))
    y = emit(relax.op.multiply(centred, per_channel(factor)))
    return y if bias is None else emit(relax.op.add(y, per_channel(bias)))


def convert_add(node: fx.Node, importer: Any) -> Expr:
    """`aten::add(x, y, alpha)` of tensors and numbers.

    TVM adds a length that is only known at run time, an int64, to no tensor of another type, and ignores
    `alpha`.

    Raises:
        ValueError: `alpha` is not 1.
    """
    if node.kwargs.get("alpha", 1) != 1:
        raise ValueError("add: alpha is not 1")
    terms: list[Any] = [importer.env[a] if isinstance(a, fx.Node) else a for a in node.args]
    x, y = terms
    kinds = [type(getattr(term, "ty", None)) for term in (x, y)]
    if kinds == [relax.TensorType, ir.PrimType] and str(x.ty.dtype) != "int64":
        emit = importer.block_builder.emit
        total = emit(relax.op.add(emit(relax.op.astype(x, "int64")), y))
        return emit(relax.op.astype(total, x.ty.dtype))
    return importer._binary_op(relax.op.add, operator.add)(node)


def convert_subtract(node: fx.Node, importer: Any) -> Expr:
    """`aten::sub(x, y, alpha)`.

    Raises:
        ValueError: `alpha` is not 1; TVM would ignore it.
    """
    if node.kwargs.get("alpha", 1) != 1:
        raise ValueError("sub: alpha is not 1")
    return importer._binary_op(relax.op.subtract, operator.sub)(node)


def convert_narrow(node: fx.Node, importer: Any) -> Expr:
    """`aten::narrow(x, dim, start, length)`, whose length TVM takes for an end."""
    x, (dim, start, length) = importer.env[node.args[0]], node.args[1:]
    end = start + length or _LARGEST  # type: ignore[operator]
    return importer.block_builder.emit(relax.op.strided_slice(x, [dim], [start], [end]))


def convert_index(node: fx.Node, importer: Any) -> Expr:
    """`aten::index(x, [i, ...])`; numbers below 0 in a single index count from the end, none is beyond it."""
    x, indices = importer.env[node.args[0]], list(node.args[1])  # type: ignore[arg-type]
    given = [axis for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1:
        return importer._index_tensor(node)
    (axis,), emit = given, importer.block_builder.emit
    index, size = importer.env[indices[axis]], relax.prim_value(x.ty.shape[axis])
    if str(index.ty.dtype) != "int64":
        return importer._index_tensor(node)
    wrapped = emit(relax.op.add(index, size))
    negative = emit(relax.op.less(index, relax.const(0, "int64")))
    return emit(relax.op.take(x, emit(relax.op.where(negative, wrapped, index)), axis=axis, mode="clip"))


def convert_celu(node: fx.Node, importer: Any) -> Expr:
    """`aten::celu(x, alpha)`: max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)."""
    x, alpha = importer.env[node.args[0]], relax.const(float((*node.args[1:], 1.0)[0]), "float32")  # type: ignore[arg-type]
    emit, zero, one = importer.block_builder.emit, relax.const(0.0, "float32"), relax.const(1.0, "float32")
    grown = emit(relax.op.subtract(emit(relax.op.exp(emit(relax.op.divide(x, alpha)))), one))
    below = emit(relax.op.minimum(emit(relax.op.multiply(grown, alpha)), zero))
    return emit(relax.op.add(emit(relax.op.maximum(x, zero)), below))


def convert_extremum(reduce: Any, node: fx.Node, importer: Any) -> Expr:
    """`aten::amax` and `aten::amin` over given dimensions."""
    arguments: list[Any] = [*node.args, *[[], False][len(node.args) - 1 :]]
    x, dims, keep = arguments
    return importer.block_builder.emit(reduce(importer.env[x], axis=dims or None, keepdims=keep))


def convert_rsub(node: fx.Node, importer: Any) -> Expr:
    """`aten::rsub(x, number)`, which is number - x."""
    x, number = importer.env[node.args[0]], node.args[1]
    return importer.block_builder.emit(relax.op.subtract(relax.const(number, x.ty.dtype), x))


CONVERTERS = {
    "amax.default": partial(convert_extremum, relax.op.max),
    "amin.default": partial(convert_extremum, relax.op.min),
    "celu.default": convert_celu,
    "index.Tensor": convert_index,
    "narrow.default": convert_narrow,
    "sub.Tensor": convert_subtract,
    "add.Tensor": convert_add,
    "batch_norm.default": convert_batch_norm,
    "index_select.default": convert_index_select,
    "masked_fill.Scalar": convert_masked_fill,
    "rsub.Scalar": convert_rsub,
    "select.int": convert_select,
    "embedding.default": convert_embedding,
    "to.device": convert_device,
    "where.ScalarOther": convert_where_scalar_other,
    "where.ScalarSelf": convert_where_scalar_self,
    "new_ones.default": convert_new_ones,
    "pow.Tensor_Scalar": convert_power,
}
