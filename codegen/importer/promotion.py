"""Type promotion: which operands PyTorch converts to a wider dtype before it computes."""

from __future__ import annotations

import torch
from torch import Tensor, fx

_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_WRAPPING = _COMPARISONS | {"add", "sub", "rsub", "mul"}
_PROMOTING = _WRAPPING | {
    *("div", "floor_divide", "remainder", "fmod", "pow", "maximum", "minimum", "fmax", "fmin"),
    *("where", "cat", "stack", "clamp", "clamp_min", "clamp_max", "addcmul", "addcdiv", "lerp"),
    *("reciprocal", "sigmoid", "softplus"),
    *("cumsum", "cumprod"),
    *("sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "erf", "atan2"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
}


def computed_in(node: fx.Node) -> torch.dtype | None:
    """The dtype that a call computes in; None if its operator promotes none."""
    name = _name(node)
    value = node.meta.get("val")
    if name not in _PROMOTING or not isinstance(value, Tensor):
        return None
    dtype = value.dtype
    if name in _COMPARISONS:
        first, second = (
            each.meta.get("val") if isinstance(each, fx.Node) else each for each in node.args[:2]
        )
        second = 1 if isinstance(second, torch.SymInt) else second  # any integer is promoted like 1
        second = 1.0 if isinstance(second, torch.SymFloat) else second
        if not isinstance(first, Tensor) or not isinstance(second, (Tensor, bool, int, float)):
            return None
        dtype = torch.result_type(first, second)
        dtype = torch.int8 if dtype == torch.bool else dtype  # TVM compares no booleans
    return dtype


def wrap_numbers(node: fx.Node, dtype: torch.dtype | None) -> None:
    """Reduce the numbers of a call modulo the range of the integers that it computes in, as PyTorch does."""
    if dtype is None or dtype not in _INTEGERS or _name(node) not in _WRAPPING:
        return
    least, count = torch.iinfo(dtype).min, 1 << torch.iinfo(dtype).bits
    node.args = tuple(
        (each - least) % count + least if isinstance(each, int) and not isinstance(each, bool) else each
        for each in node.args
    )


def _name(node: fx.Node) -> str:
    """The name of a call's operator, without its overload; "" for functions of Python."""
    target = node.target
    return target._schema.name.split("::")[1] if isinstance(target, torch._ops.OpOverload) else ""


def narrower(node: fx.Node, dtype: torch.dtype) -> list[fx.Node]:
    """The operands of a call that are integers or booleans of another dtype, to be converted to `dtype`.

    A condition, of `where`, stays.
    """
    conditions = node.args[:1] if node.target.__name__.startswith("where.") else ()  # type: ignore[union-attr]
    return [
        each
        for each in node.all_input_nodes
        if each not in conditions
        and isinstance(value := each.meta.get("val"), Tensor)
        and not value.dtype.is_floating_point
        and value.dtype != dtype
    ]
