"""Accounting of what stays in full precision: every parameter is either quantized or has a reason here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Unquantized:
    """A module or parameter that stays in full precision."""

    name: str
    reason: str


def remaining_parameters(
    model: nn.Module, planned: Iterable[tuple[str, Iterable[Any]]], kept: Iterable[Unquantized]
) -> list[Unquantized]:
    """Parameters that no planned site quantizes and no kept module owns, each with its reason.

    `planned` gives (module name, operands) of each site; an operand has `name` and `encoding`.
    """
    done = set()
    for fqn, operands in planned:
        if any(operand.name == "weight" and operand.encoding.quantized for operand in operands):
            done.add(id(model.get_submodule(fqn).weight))
    for item in kept:
        done |= {id(parameter) for parameter in model.get_submodule(item.name).parameters()}
    by_module = {
        id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)
    }
    return [
        Unquantized(name, _reason(name, by_module[id(parameter)]))
        for name, parameter in model.named_parameters()
        if id(parameter) not in done
    ]


def _reason(name: str, module: nn.Module) -> str:
    if "norm" in type(module).__name__.lower():
        return "normalisation stays fp32"
    if name.rpartition(".")[2] == "bias":
        return "biases stay fp32"
    if isinstance(module, (nn.Linear, nn.Embedding)):
        return "the recipe keeps it at 32 bits, or the example inputs never reach it"
    return "no operand of a linear layer, an embedding or an attention product"
