"""Sizes of different inputs that a forward takes to be one: the rows of ids and of their mask.

An exported graph broadcasts where the forward would fail, so it has a symbol for each. The forward is asked:
where one size cannot become smaller and larger alone, but another with it, they are one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, nn

from tbt_compile.adapters.repeatable import drawn
from tbt_compile.passes.size_guards import Shape


def tied(unit: nn.Module, inputs: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Shape]:
    """Give sizes one name that can only change together.

    Args:
        unit: takes a list of tensors, in evaluation mode.
        inputs: example inputs.
        shapes: their dynamic dimensions, each a size.

    Returns:
        The shapes, with the name of the first of the sizes that are one.
    """
    sizes: dict[sympy.Symbol, int] = {}
    for value, shape in zip(inputs, shapes, strict=True):
        for dim, symbol in shape.items():
            sizes[symbol] = value.shape[dim]
    names: dict[sympy.Symbol, sympy.Symbol] = {}
    for symbol, size in sizes.items():
        earlier = [other for other in sizes if other not in names and sizes[other] == size]
        earlier = earlier[: earlier.index(symbol)] if symbol in earlier else []
        if size == 1 or not earlier or _runs(unit, inputs, shapes, {symbol}):
            continue
        first = next((other for other in earlier if _runs(unit, inputs, shapes, {symbol, other})), None)
        if first is not None:
            names[symbol] = first
    return [{dim: names.get(symbol, symbol) for dim, symbol in shape.items()} for shape in shapes]


def _runs(unit: nn.Module, inputs: Sequence[Tensor], shapes: Sequence[Shape], sizes: set[Any]) -> bool:
    """Whether the forward runs with these sizes smaller by one, and larger by one."""

    def changed(smaller: bool) -> list[Tensor]:
        values = []
        for value, shape in zip(inputs, shapes, strict=True):
            for dim, symbol in shape.items():
                if symbol in sizes:
                    less = value.narrow(dim, 0, value.shape[dim] - 1)
                    value = less if smaller else torch.cat([value, value.narrow(dim, 0, 1)], dim)
            values.append(drawn(value))
        return values

    try:
        with torch.no_grad():
            unit(changed(smaller=True))
            unit(changed(smaller=False))
    except Exception:  # whatever a user's forward raises
        return False
    return True
