"""Numbers that a forward computes from the sizes of its inputs, `x.shape[0] * 0.5`, as scalar expressions.

Sizes are int64 and fractions float64, as in Python. An operator that takes such a number and a tensor gets a
tensor of no dimensions, see `Call.scalar`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tbt_compile.codegen.tvm_api import Expr, relax, te, tirx

Number = Any
"""A Python number or an expression."""


def symbolic(node: fx.Node) -> list[fx.Node]:
    """The operands of a call that are numbers computed from sizes."""
    kinds = (torch.SymInt, torch.SymFloat)
    return [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), kinds)]


def tensor_of(number: Expr, dtype: str, builder: relax.BlockBuilder) -> Expr:
    """Emit a tensor of no dimensions that holds a number computed from sizes.

    Args:
        number: a scalar expression.
        dtype: of the tensor.
        builder: of the function.

    Returns:
        The tensor.
    """
    return builder.emit_te(lambda value: te.compute((), lambda: value.astype(dtype), "number"), number)


def is_fraction(value: Number) -> bool:
    """Whether a number is a float."""
    return isinstance(value, float) or (not isinstance(value, int) and str(value.ty.dtype) == "float64")


def _fraction(value: Number) -> Expr:
    if isinstance(value, (int, float)):
        return tirx.const(float(value), "float64")
    return value if is_fraction(value) else value.astype("float64")


def _arithmetic(function: Callable[..., Number]) -> Callable[..., Number]:
    """Compute in floats if an operand is one."""

    def compute(*values: Number) -> Number:
        return function(*(map(_fraction, values) if any(map(is_fraction, values)) else values))

    return compute


def _divide(first: Number, second: Number) -> Number:
    return _fraction(first) / _fraction(second)


def _power(base: Number, exponent: Number) -> Number:
    if exponent in (0.5, -0.5):
        root = tirx.sqrt(_fraction(base))
        return root if exponent > 0 else _fraction(1) / root
    if isinstance(exponent, int) and exponent >= 0 and not is_fraction(base):
        return math.prod([base] * exponent)
    return tirx.pow(_fraction(base), _fraction(exponent))


def _largest(first: Number, second: Number) -> Number:
    return tirx.max(first, second)


def _smallest(first: Number, second: Number) -> Number:
    return tirx.min(first, second)


def _whole(rounded: Callable[[Expr], Expr]) -> Callable[[Number], Number]:
    """Round a fraction to an integer."""

    def compute(value: Number) -> Number:
        return rounded(_fraction(value)).astype("int64")

    return compute


def _round(value: Number, digits: None = None) -> Number:
    if digits is not None:
        raise ValueError(f"to {digits} digits")
    return _whole(tirx.nearbyint)(value)


PYTHON_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "add": _arithmetic(operator.add),
    "sub": _arithmetic(operator.sub),
    "mul": _arithmetic(operator.mul),
    "neg": operator.neg,
    "truediv": _divide,
    "pow": _power,
    "sym_float": _fraction,
    "sym_max": _arithmetic(_largest),
    "sym_min": _arithmetic(_smallest),
    "ceil": _whole(tirx.ceil),
    "floor": _whole(tirx.floor),
    "trunc": _whole(tirx.trunc),
    "round": _round,
}
"""What computes each function of Python, by its name in a graph."""
