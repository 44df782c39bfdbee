"""Account for full precision: every parameter is quantized or listed with the reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tbt_compile.modules.computed_weights import stored_weight
from tbt_compile.modules.interception import split_call
from tbt_compile.passes.check_autocast import ADVICE, AUTOCAST


@dataclass(frozen=True)
class Unquantized:
    """A module or parameter that stays in full precision."""

    name: str
    reason: str


def remaining_parameters(
    model: nn.Module,
    planned: Iterable[tuple[str, Iterable[Any]]],
    known: Iterable[Unquantized],
    packed: Iterable[str] = (),
    readers: Mapping[str, Iterable[str]] | None = None,
) -> list[Unquantized]:
    """List the parameters that no planned site quantizes and no module of `known` owns.

    Args:
        model: the model in full precision.
        planned: (module name, operands) of each site; an operand has `name` and `encoding`.
        known: modules, parameters and calls already known to stay in full precision.
        packed: names of the parameters that quantized calls read.
        readers: by parameter name, the operators that read it together with an input, such as "lstm".

    Returns:
        The remaining parameters, each with a reason.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    covered = {id(named[name]) for name in packed}
    for fqn, operands in planned:
        if any(operand.name == "weight" and operand.encoding.quantized for operand in operands):
            covered.add(id(stored_weight(model.get_submodule(fqn))))
    for item in known:
        if item.name in named:
            covered.add(id(named[item.name]))
        elif split_call(item.name) is None:
            covered |= {id(parameter) for parameter in model.get_submodule(item.name).parameters()}
    read: dict[int, list[str]] = {}
    for name, operators in (readers or {}).items():
        read.setdefault(id(named[name]), []).extend(operators)
    by_module = {
        id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)
    }
    return [
        Unquantized(name, _reason(name, by_module[id(parameter)], read.get(id(parameter), [])))
        for name, parameter in model.named_parameters()
        if id(parameter) not in covered
    ]


def _reason(name: str, module: nn.Module, operators: Iterable[str]) -> str:
    if "norm" in type(module).__name__.lower():
        return "normalisation stays fp32"
    if name.rpartition(".")[2].startswith("bias"):
        return "biases stay fp32"
    found = list(dict.fromkeys(operators))
    if not found:
        return "the example inputs never reach it"
    if AUTOCAST in found:
        return f"read under torch.autocast, where nothing is quantized: {ADVICE}"
    if isinstance(module, (nn.Linear, nn.Embedding)):
        return "the recipe keeps it at 32 bits"
    text = " and ".join(found)
    if _INSIDE.intersection(found):
        return f"{text} multiplies by it inside one operator, which has no quantized form"
    if _LOOKUPS.intersection(found):
        return f"{text} selects parts of it by an input; only rows of embeddings are quantized"
    if any(operator.startswith("conv") or operator in _PRODUCTS for operator in found):
        return f"{text} multiplies by it in fp32"
    return f"{text} reads it, which is no product: it stays fp32"


_INSIDE = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu", "bilinear"}) | {
    f"{kind}_cell" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}
_LOOKUPS = frozenset({"index", "index_select", "gather", "embedding"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "linear"})
