"""Functions that fix a size of the example, in a form that leaves it free; for the time of a capture.

`torch.export` takes a size that becomes an `int` of Python, or an `int64_t` of C++, for a constant: the graph
would hold for that size only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import SymInt, Tensor, nn


@contextmanager
def free_sizes(module: nn.Module, packages: Sequence[str] = ("transformers",)) -> Iterator[None]:
    """Replace `one_hot`, `torch.div` of sizes, and `int` where `int(x.shape[0])` is in the forward of a part.

    Only in files of `packages`: elsewhere `int` may be a dtype, which PyTorch takes from Python alone.
    """
    functional: Any = torch.nn.functional
    names = {type(part).__module__ for part in module.modules()}
    names = {name for name in names if name.partition(".")[0] in packages and name in sys.modules}
    files = [file for file in (vars(sys.modules[name]) for name in names) if "int" not in file]
    one_hot, div = functional.one_hot, torch.div
    functional.one_hot, torch.div = _one_hot(one_hot), _div(div)
    for file in files:
        file["int"] = _Int
    try:
        yield
    finally:
        functional.one_hot, torch.div = one_hot, div
        for file in files:
            del file["int"]


def _one_hot(function: Any) -> Any:
    def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
        if not isinstance(num_classes, SymInt):
            return function(tensor, num_classes)
        return (tensor[..., None] == torch.arange(num_classes, device=tensor.device)).long()

    return one_hot


def _div(function: Any) -> Any:
    def div(input: Any, other: Any, **options: Any) -> Any:
        if (
            isinstance(input, SymInt)
            and isinstance(other, int)
            and other > 0
            and options.get("rounding_mode")
        ):
            # A number, of which PyTorch makes a tensor.
            return input // other if options["rounding_mode"] == "floor" else truncated(input, other)
        return function(input, other, **options)

    return div


def truncated(size: SymInt, other: int) -> Any:
    """The quotient rounded towards 0; `//` rounds down."""
    return torch.sym_max(size, 0) // other - torch.sym_max(-size, 0) // other


class _Whole(type):
    """Makes `isinstance(x, int)` and `kind == int` mean the `int` of Python."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, int)

    def __eq__(cls, other: object) -> bool:
        return other is int or other is cls

    def __hash__(cls) -> int:
        return hash(int)


class _Int(int, metaclass=_Whole):
    """`int`, of which a size of the call stays what it is."""

    def __new__(cls, *values: Any, **options: Any) -> Any:
        if len(values) == 1 and isinstance(values[0], SymInt):
            return values[0]
        return int(*values, **options)
