"""Floating-point operators of the lowered graph as calls of vectorised kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import fx

from tbt_compile.codegen.importer.tbt_ops import Converter, Kernels, operand, product, reshape
from tbt_compile.codegen.kernels.float_ops import activations, norms, softmax
from tbt_compile.codegen.kernels.linear import float32
from tbt_compile.codegen.tvm_api import Expr, relax, tirx

_EPSILON = 2.0**-23  # what torch takes for an eps of None


def float_converters(kernels: Kernels) -> dict[str, Converter]:
    """The converters by operator name, as the importer looks them up."""
    return {
        "masked_softmax.default": partial(masked_softmax, kernels),
        "softmax.int": partial(plain_softmax, kernels),
        "add_layer_norm.default": partial(add_layer_norm, kernels),
        "layer_norm.default": partial(layer_norm, kernels),
        "rms_norm.default": partial(rms_norm, kernels),
        "gelu.default": partial(gelu, kernels),
        "silu.default": partial(activation, kernels, "silu"),
        "linear.default": partial(linear, kernels),
    }


def masked_softmax(kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    """`tbt::masked_softmax`."""
    scores, mask = operand(importer, node.args[0]), operand(importer, node.args[1])
    spec = softmax.SoftmaxSpec(kernels.isa, float(node.args[2]), mask is not None)  # type: ignore[arg-type]
    args = [scores] if mask is None else [scores, mask]
    return kernels.call(importer, spec, softmax.softmax, args, list(scores.ty.shape))


def plain_softmax(kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    """`aten::softmax` over the last dimension; others are left to TVM."""
    x = operand(importer, node.args[0])
    shape = list(x.ty.shape)
    if node.args[1] not in (-1, len(shape) - 1):
        return importer._softmax(node)
    rows = shape if len(shape) == 4 else [1, 1, product(shape[:-1]), shape[-1]]
    spec = softmax.SoftmaxSpec(kernels.isa)
    y = kernels.call(importer, spec, softmax.softmax, [reshape(importer, x, rows)], rows)
    return reshape(importer, y, shape)


def add_layer_norm(kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    """`tbt::add_layer_norm`."""
    x, residual, weight, bias = (operand(importer, argument) for argument in node.args[:4])
    shape, rows = list(x.ty.shape), _rows(x)
    spec = norms.NormSpec(int(shape[-1]), float(node.args[4]), kernels.isa, residual=True)  # type: ignore[arg-type]
    args = [reshape(importer, x, rows), reshape(importer, residual, rows), weight, bias]
    return reshape(importer, kernels.call(importer, spec, norms.layer_norm, args, rows), shape)


def layer_norm(kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    """`aten::layer_norm` over the last dimension; others are left to TVM."""
    arguments: list[Any] = [*node.args, None, None, None][:5]
    x, sizes, eps = operand(importer, arguments[0]), arguments[1], arguments[4]
    if len(sizes) != 1:
        return importer._layer_norm(node)
    affine = [
        _vector(importer, argument, fill, sizes[0])
        for argument, fill in zip(arguments[2:4], (1.0, 0.0), strict=True)
    ]
    shape, rows = list(x.ty.shape), _rows(x)
    spec = norms.NormSpec(int(shape[-1]), 1e-5 if eps is None else float(eps), kernels.isa)
    args = [reshape(importer, x, rows), *affine]
    return reshape(importer, kernels.call(importer, spec, norms.layer_norm, args, rows), shape)


def rms_norm(kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    """`aten::rms_norm` over the last dimension.

    Raises:
        ValueError: it is over several dimensions.
    """
    arguments: list[Any] = [*node.args, None, None][:4]
    x, sizes, eps = operand(importer, arguments[0]), arguments[1], arguments[3]
    if len(sizes) != 1:
        raise ValueError("rms_norm over several dimensions has no kernel")
    shape, rows = list(x.ty.shape), _rows(x)
    spec = norms.NormSpec(int(shape[-1]), _EPSILON if eps is None else float(eps), kernels.isa)
    args = [reshape(importer, x, rows), _vector(importer, arguments[2], 1.0, sizes[0])]
    return reshape(importer, kernels.call(importer, spec, norms.rms_norm, args, rows), shape)


def _vector(importer: Any, argument: Any, fill: float, length: int) -> Expr:
    """A weight or bias, or the numbers that stand for its absence."""
    if argument is not None:
        return operand(importer, argument)
    return importer.block_builder.emit(relax.op.full([length], relax.const(fill, "float32"), "float32"))


def linear(kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    """`aten::linear` with float32 weights, over all leading dimensions as rows."""
    x, weight, bias = (operand(importer, argument) for argument in [*node.args, None][:3])
    shape, (outputs, columns) = list(x.ty.shape), (int(size) for size in weight.ty.shape)
    rows = product(shape[:-1])
    spec = float32.FloatLinearSpec(outputs, columns, bias is not None, kernels.isa)
    args = [reshape(importer, x, [rows, columns]), weight, *([] if bias is None else [bias])]
    y = kernels.call(importer, spec, float32.linear_float, args, [rows, outputs])
    return reshape(importer, y, [*shape[:-1], outputs])


def gelu(kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    """`aten::gelu`, exact or by tanh."""
    tanh = node.kwargs.get("approximate", "none") == "tanh"
    return activation(kernels, "gelu_tanh" if tanh else "gelu", node, importer)


def activation(kernels: Kernels, function: str, node: fx.Node, importer: Any) -> Expr:
    """An elementwise function."""
    x = operand(importer, node.args[0])
    shape = list(x.ty.shape)
    # Kernels know the length of a row; a last dimension that is dynamic leaves rows of one.
    static = bool(shape) and isinstance(shape[-1], (int, tirx.IntImm))
    rows = [product(shape[:-1]), shape[-1]] if static else [product(shape), 1]
    spec = activations.ActivationSpec(function, int(rows[-1]), kernels.isa)
    y = kernels.call(importer, spec, activations.activation, [reshape(importer, x, rows)], rows)
    return reshape(importer, y, shape)


def _rows(x: Expr) -> list[Any]:
    shape = list(x.ty.shape)
    return [product(shape[:-1]), shape[-1]]
