"""The registry of converters: one function per operator, from a call in the FX graph to a Relax expression.

To add an operator, write its converter in the `convert_*.py` of its family. A converter reads the operands by
their schema names and returns the Relax expression of the result:

    @converter(ATEN.masked_fill.Scalar)
    def convert_masked_fill(call: Call) -> Expr:
        '''`aten::masked_fill(self, mask, value)`.'''
        x, mask = call.operands.self, call.operands.mask
        return call.emit(relax.op.where(mask, relax.const(call.operands.value, x.ty.dtype), x))

A converter may use a kernel for the hot case and leave the others to TVM:

    @converter(ATEN.softmax.int)
    def convert_softmax(call: Call) -> Expr:
        '''`aten::softmax(self, dim)`; only the last dimension has a kernel.'''
        x, dim = call.operands.self, call.operands.dim
        if dim != -1:
            return call.default()
        return call.kernel(SoftmaxSpec(call.isa), softmax, [x], x.ty.shape)

Operators without a converter here go to TVM's importer, which rejects operators that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

import tbt_compile.ops  # noqa: F401  (registers torch.ops.tbt)
from tbt_compile.codegen.importer.kernels import Kernels
from tbt_compile.codegen.importer.symbolic_numbers import tensor_of
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, relax
from tbt_compile.ops.operands import operands

ATEN = torch.ops.aten
TBT = torch.ops.tbt


class Call:
    """The view of one operator call that a converter gets.

    Args:
        node: the call in the FX graph.
        importer: TVM's importer, which has converted all earlier nodes.
        kernels: the kernels of the library being built.

    Attributes:
        node: the call in the FX graph, for what Relax lacks, such as `meta`.
        operands: the operands by schema name, defaults filled in. Results of other nodes, also in lists, are
            Relax expressions; constants are the Python values in the graph.
        isa: the instruction set that kernels are built for.
    """

    def __init__(self, node: fx.Node, importer: Any, kernels: Kernels) -> None:
        self.node = node
        self.operands = SimpleNamespace(**map_arg(vars(operands(node)), importer.env.__getitem__))
        self.isa: Isa = kernels.isa
        self._importer = importer
        self._kernels = kernels

    def emit(self, expression: Expr) -> Expr:
        """Bind an expression to a new variable and return the variable."""
        return self._importer.block_builder.emit(expression)

    def compute(self, function: Callable[..., Any], *args: Expr, **options: Any) -> Expr:
        """Emit what `function` builds with `te.compute` from tensors; TVM fuses it with its neighbours."""
        return self._importer.block_builder.emit_te(function, *args, **options)

    def kernel(
        self,
        spec: Any,
        build: Callable[[Any], PrimFunc],
        args: Sequence[Expr],
        shape: Sequence[Any],
        dtype: str = "float32",
    ) -> Expr:
        """Emit a call of the kernel `build(spec)`.

        Args:
            spec: what the kernel is specialised for; equal specs share one kernel.
            build: builds the kernel. Its parameters are `args`, then the result.
            args: tensors, and integers as `relax.prim_value`.
            shape: of the result, which the caller allocates; may be symbolic.
            dtype: of the result.

        Returns:
            The result tensor.
        """
        name, function = self._kernels.get(spec, build)
        variable = self._importer.block_builder.add_func(function, name)
        return self.emit(relax.call_tir(variable, list(args), relax.TensorType(list(shape), dtype)))

    def scalar(self, value: Any, dtype: Any) -> Expr:
        """A tensor of no dimensions that holds a number, which may be computed from sizes."""
        if isinstance(value, (bool, int, float)):
            return relax.const(value, dtype)
        if isinstance(value.ty, relax.TensorType):
            return value
        return tensor_of(value, str(dtype), self._importer.block_builder)

    def tensors(self) -> tuple[Expr, Expr]:
        """The operands `self` and `other`; a number becomes a scalar of the other one's dtype."""
        x, y = self.operands.self, self.operands.other
        if not isinstance(getattr(x, "ty", None), relax.TensorType):
            return self.scalar(x, y.ty.dtype), y
        return x, self.scalar(y, x.ty.dtype)

    def reshape(self, x: Expr, shape: Sequence[Any]) -> Expr:
        """A view of `x` with leading dimensions joined or split; `x` itself if the rank is equal."""
        return x if len(x.ty.shape) == len(shape) else self.emit(relax.op.reshape(x, list(shape)))

    def default(self, /, **changed: Expr) -> Expr:
        """Convert the call with TVM's converter for this operator.

        Args:
            changed: expressions in place of operands, by schema name.

        Returns:
            The result.

        Raises:
            ValueError: TVM has none.
        """
        replaced = self._importer.replaced.get(self.node.target.__name__)  # type: ignore[union-attr]
        if replaced is None:
            raise ValueError(f"TVM has no converter for {self.node.target}")
        given, values = operands(self.node), self._importer.env
        stored = {getattr(given, name): values[getattr(given, name)] for name in changed}
        values.update({getattr(given, name): value for name, value in changed.items()})
        result = replaced(self.node)
        values.update(stored)
        return result


Converter = Callable[[Call], Expr]

CONVERTERS: dict[str, Converter] = {}
"""The converters by operator and overload, "add.Tensor": the key of TVM's importer, without a namespace."""


def converter(target: torch._ops.OpOverload) -> Callable[[Converter], Converter]:
    """Register the decorated function as the converter of an operator.

    Raises:
        TypeError: `target` is not an overload such as `ATEN.add.Tensor`.
        ValueError: the operator, or one of the same name in the other namespace, has a converter already.
    """

    if not isinstance(target, torch._ops.OpOverload):
        raise TypeError(f"{target} is not an overload of an operator, such as torch.ops.aten.add.Tensor")

    def register(function: Converter) -> Converter:
        name = target.__name__
        if name in CONVERTERS:
            raise ValueError(f"{target}: {name} is converted by {CONVERTERS[name].__name__} already")
        CONVERTERS[name] = function
        return function

    return register


def convert_map(kernels: Kernels) -> dict[str, Callable[[fx.Node, Any], Expr]]:
    """All registered converters with the signature that TVM's importer calls, (node, importer)."""
    return {name: partial(_convert, function, kernels) for name, function in CONVERTERS.items()}


def _convert(function: Converter, kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    return function(Call(node, importer, kernels))
