"""Functions that fix a size of the example, in a form that leaves it free; for the time of a capture.

`torch.export` takes a size that becomes an `int` of Python, or an `int64_t` of C++, for a constant: the graph
would hold for that size only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import SymInt, Tensor, nn


@contextmanager
def free_sizes(module: nn.Module) -> Iterator[None]:
    """Replace `torch.nn.functional.one_hot`, and `int` in the files that define a module and its parts."""
    functional: Any = torch.nn.functional
    names = {type(part).__module__ for part in module.modules()}
    files = [
        vars(sys.modules[name]) for name in names if not name.startswith("torch.") and name in sys.modules
    ]
    files = [file for file in files if "int" not in file]
    one_hot = functional.one_hot
    functional.one_hot = _one_hot(one_hot)
    for file in files:
        file["int"] = _Int
    try:
        yield
    finally:
        functional.one_hot = one_hot
        for file in files:
            del file["int"]


def _one_hot(function: Any) -> Any:
    def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
        if not isinstance(num_classes, SymInt):
            return function(tensor, num_classes)
        return (tensor[..., None] == torch.arange(num_classes, device=tensor.device)).long()

    return one_hot


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
