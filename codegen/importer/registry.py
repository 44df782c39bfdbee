"""The registry of converters: one function per operator, from a call in the FX graph to a Relax expression.

To add an operator, write its converter into the `convert_*.py` of its family. It reads the operands by the
names of the operator's schema and returns what the call evaluates to:

    @converter(ATEN.masked_fill.Scalar)
    def convert_masked_fill(call: Call) -> Expr:
        '''`aten::masked_fill(self, mask, value)`.'''
        x, mask = call.operands.self, call.operands.mask
        return call.emit(relax.op.where(mask, relax.const(call.operands.value, x.ty.dtype), x))

With a kernel of our own for the hot case, and TVM's converter for the others:

    @converter(ATEN.softmax.int)
    def convert_softmax(call: Call) -> Expr:
        '''`aten::softmax(self, dim)`; only the last dimension has a kernel.'''
        x, dim = call.operands.self, call.operands.dim
        if dim != -1:
            return call.default()
        return call.kernel(SoftmaxSpec(call.isa), softmax, [x], x.ty.shape)

Operators without a converter here go to TVM's importer, which refuses those it does not know.
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
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import Expr, PrimFunc, relax
from tbt_compile.ops.operands import operands

ATEN = torch.ops.aten
TBT = torch.ops.tbt


class Call:
    """One operator call, as its converter sees it.

    Args:
        node: the call in the FX graph.
        importer: TVM's importer, which has converted all earlier nodes.
        kernels: those of the library being built.

    Attributes:
        node: as above; for what only the FX graph knows, such as `meta`.
        operands: the operands by the names of the operator's schema, defaults filled in. Results of other
            nodes are Relax expressions, also inside lists; constants are as they stand in the graph.
        isa: the instruction set that kernels are built for.
    """

    def __init__(self, node: fx.Node, importer: Any, kernels: Kernels) -> None:
        self.node = node
        self.operands = SimpleNamespace(**map_arg(vars(operands(node)), importer.env.__getitem__))
        self.isa: Isa = kernels.isa
        self._importer = importer
        self._kernels = kernels

    def emit(self, expression: Expr) -> Expr:
        """Bind an expression to a variable, and return that."""
        return self._importer.block_builder.emit(expression)

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
            build: makes the kernel. Its parameters are `args`, then the result.
            args: tensors, and integers as `relax.prim_value`.
            shape: of the result, which the caller allocates; may be symbolic.
            dtype: of the result.

        Returns:
            The result.
        """
        name, function = self._kernels.get(spec, build)
        variable = self._importer.block_builder.add_func(function, name)
        return self.emit(relax.call_tir(variable, list(args), relax.TensorType(list(shape), dtype)))

    def reshape(self, x: Expr, shape: Sequence[Any]) -> Expr:
        """`x` with leading dimensions joined or split, as a view; unchanged if the rank stays."""
        return x if len(x.ty.shape) == len(shape) else self.emit(relax.op.reshape(x, list(shape)))

    def default(self) -> Expr:
        """Leave the call to the converter that TVM has for this operator.

        Raises:
            ValueError: TVM has none.
        """
        replaced = self._importer.replaced.get(self.node.target.__name__)  # type: ignore[union-attr]
        if replaced is None:
            raise ValueError(f"TVM has no converter for {self.node.target}")
        return replaced(self.node)


Converter = Callable[[Call], Expr]

CONVERTERS: dict[str, Converter] = {}
"""By operator and overload without the namespace, as TVM's importer looks them up: "add.Tensor"."""


def converter(target: torch._ops.OpOverload) -> Callable[[Converter], Converter]:
    """Register the decorated function as the converter of an operator.

    Raises:
        ValueError: the operator has one already, or one of the same name in the other namespace has.
    """

    def register(function: Converter) -> Converter:
        name = target.__name__
        if name in CONVERTERS:
            raise ValueError(f"{target}: {name} is converted by {CONVERTERS[name].__name__} already")
        CONVERTERS[name] = function
        return function

    return register


def convert_map(kernels: Kernels) -> dict[str, Callable[[fx.Node, Any], Expr]]:
    """All registered converters in the form that TVM's importer calls: (node, importer)."""
    return {name: partial(_convert, function, kernels) for name, function in CONVERTERS.items()}


def _convert(function: Converter, kernels: Kernels, node: fx.Node, importer: Any) -> Expr:
    return function(Call(node, importer, kernels))
