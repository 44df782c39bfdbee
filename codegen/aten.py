"""ATen operators of exported graphs that TVM's importer does not know, or does not compute as torch does."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tbt_compile.codegen.tvm_api import Expr, relax


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


CONVERTERS = {
    "embedding.default": convert_embedding,
    "to.device": convert_device,
    "where.ScalarOther": convert_where_scalar_other,
    "where.ScalarSelf": convert_where_scalar_self,
    "new_ones.default": convert_new_ones,
    "pow.Tensor_Scalar": convert_power,
}
