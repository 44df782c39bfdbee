"""The export unit of a module that does not generate text: one call of its forward."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from tbt_compile.adapters.call_record import aliases, as_call, example_call, recorded
from tbt_compile.adapters.results import Layout, take_apart
from tbt_compile.adapters.units import ExportUnits, capture_unit
from tbt_compile.errors import LoweringError
from tbt_compile.passes.export import why
from tbt_compile.passes.index_bounds import index_bounds
from tbt_compile.storage.model_folder import MODULE


class _Call(nn.Module):
    """Calls the module with a list of tensors as arguments, plus the constants of the example call.

    Arguments that have to be the same tensor as another are no inputs. The result is a list of tensors.
    """

    def __init__(
        self, model: nn.Module, example: dict[str, Any], names: list[str], shared: dict[str, str]
    ) -> None:
        super().__init__()
        self.model, self.example, self.names, self.shared = model, example, names, shared
        self.name = type(model).__name__.removeprefix("Quantized")
        self._found = SimpleNamespace()  # torch.export undoes what a forward assigns to its module

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        named = {**self.example, **dict(zip(self.names, tensors, strict=True))}
        named |= {name: named[first] for name, first in self.shared.items()}
        args, kwargs = as_call(named)
        results, self._found.layout = take_apart(self.model(*args, **kwargs), self.name)
        return [result.clone() for result in results]  # no result is an argument, or a view of one

    @property
    def layout(self) -> Layout:
        """How the module put the tensors of its last result together."""
        layout: Layout = self._found.layout
        return layout


def export_module(model: nn.Module) -> ExportUnits:
    """Export one call of a frozen module in eval mode, with dynamic first dimensions where possible.

    Raises:
        LoweringError: there is no record of how the module is called, it cannot be captured, or it returns
            something other than tensors.
    """
    example, shared = example_call(model), aliases(recorded(model) or [])
    try:
        try:
            return _export(model, example, {})
        except Exception:  # attention may go another way where query, key and value are one tensor
            if not shared:
                raise
            return _export(model, example, shared)
    except LoweringError:
        raise
    except Exception as error:
        raise LoweringError(
            f"{type(model).__name__} cannot be captured for compilation: {why(error)}"
        ) from error


def _export(model: nn.Module, example: dict[str, Any], shared: dict[str, str]) -> ExportUnits:
    given = {name: value for name, value in example.items() if name not in shared}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    constants = {name: value for name, value in given.items() if name not in tensors}
    dims = [{0: Dim.AUTO} if value.dim() else None for value in tensors.values()]
    call = _Call(model, example, list(tensors), shared)
    unit = capture_unit("forward", call, ([*tensors.values()],), (dims,))
    if not _serves_any_batch(unit.program, call, list(tensors.values())):
        unit = capture_unit("forward", call, ([*tensors.values()],), ([None] * len(tensors),))
    settings = {
        "inputs": _inputs(unit.program, list(tensors)),
        "returns": call.layout,
        "constants": constants,
        "shared": shared,
    }
    return ExportUnits(MODULE, (unit,), settings)


def _serves_any_batch(program: ExportedProgram, call: _Call, tensors: list[Tensor]) -> bool:
    """Whether a captured graph computes what the module computes at other first dimensions too.

    A forward that branches on its batch size leaves a guard; one that asks whether it is 1 leaves none, since
    torch.export takes a dynamic size to be at least 2: so that is tried.
    """
    if not all(map(_HARMLESS.fullmatch, getattr(program, "_guards_code", None) or [])):
        return False
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    values = [nodes[str(name)].meta["val"] for name in program.graph_signature.user_inputs]
    dynamic = [bool(value.dim()) and not isinstance(value.shape[0], int) for value in values]
    if not any(dynamic):
        return True
    rows = [each[:1] if free else each for each, free in zip(tensors, dynamic, strict=True)]
    rows = [torch.rand_like(each) if each.is_floating_point() else each for each in rows]
    with torch.no_grad():
        try:
            expected = pytree.tree_leaves(call(rows))
        except Exception:  # the module takes no single row
            return True
        try:
            found = pytree.tree_leaves(program.module(check_guards=False)(rows))
        except Exception:
            return False
    return all(torch.allclose(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True))


_HARMLESS = re.compile(r"L\S+ (<=|<|==) (\d+|L\S+)")
"""Guards that hold a size below a bound, which the manifest has, or two sizes equal."""


def _inputs(program: ExportedProgram, names: list[str]) -> list[dict[str, Any]]:
    """Describe every tensor argument, in order, by name, dtype and shape; dynamic sizes are symbols.

    Indices into a table also have `below`, the exclusive upper bound of their values, and `least`, the lower
    one. Arguments with bounded dynamic sizes have `longest`, the largest size of each dimension or None.
    """
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    bounds = index_bounds(program)
    symbols: dict[str, str] = {}
    described = []
    for name, placeholder in zip(names, map(str, program.graph_signature.user_inputs), strict=True):
        value = nodes[placeholder].meta["val"]
        shape = [
            size if isinstance(size, int) else symbols.setdefault(str(size), f"n{len(symbols)}")
            for size in value.shape
        ]
        entry: dict[str, Any] = {
            "name": name,
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": shape,
        }
        if placeholder in bounds.below:
            below = bounds.below[placeholder]
            entry |= {"below": below, "least": -below if placeholder in bounds.wrapping else 0}
        longest = [bounds.longest(program, placeholder, dim) for dim in range(value.dim())]
        described.append(entry if longest.count(None) == len(longest) else {**entry, "longest": longest})
    return described
