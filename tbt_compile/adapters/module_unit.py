"""The export unit of a module that does not generate text: one call of its forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tbt_compile.adapters.call_record import (
    aliases,
    call_by_name,
    defaults,
    example_call,
    free_dimensions,
    recorded,
)
from tbt_compile.adapters.fixed_sizes import EXPORTED, RELATED, with_fixed_sizes
from tbt_compile.adapters.results import Layout, take_apart
from tbt_compile.adapters.tied_sizes import tied
from tbt_compile.adapters.units import ExportUnits, bounded_unit, capture_unit, export_dynamic
from tbt_compile.dtypes import dtype_name
from tbt_compile.errors import LoweringError
from tbt_compile.passes.capture_errors import explained
from tbt_compile.passes.index_bounds import index_bounds
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.size_guards import InexpressibleError, Shape, input_values, named_shapes
from tbt_compile.storage.model_folder import MODULE

_INTEGERS = torch.iinfo(torch.int64)


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
        results, self._found.layout = take_apart(call_by_name(self.model, named), self.name)
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
            f"{type(model).__name__} cannot be captured for compilation: {explained(error, model)}"
        ) from error


def _export(model: nn.Module, example: dict[str, Any], shared: dict[str, str]) -> ExportUnits:
    given = {name: value for name, value in example.items() if name not in shared}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    constants = {name: value for name, value in given.items() if name not in tensors}
    call = _Call(model, example, list(tensors), shared)
    unit, shapes, reason = _captured(call, list(tensors.values()), free_dimensions(recorded(model) or []))
    otherwise = EXPORTED if hasattr(model, "_in_spec") else RELATED
    settings = {
        "inputs": with_fixed_sizes(
            call.name, _inputs(unit.program, list(tensors), shapes), reason, otherwise
        ),
        "bounds": [bound.to_dict() for bound in unit.bounds],
        "returns": call.layout,
        "constants": {**constants, **defaults(recorded(model) or [])},
        "shared": shared,
    }
    return ExportUnits(MODULE, (unit,), settings)


def _captured(
    call: _Call, tensors: list[Tensor], declared: Mapping[str, list[int]]
) -> tuple[LoweringContext, list[Shape], str]:
    """Capture a call with as many dynamic dimensions as the branches of the forward allow.

    Branches on one size are its bounds. Where a relation of sizes decides, first dimensions are fixed, and if
    need be all others. The dynamic dimensions are returned too, and a text that says why first dimensions are
    not dynamic, if that is the reason.
    """
    reason = ""
    args, own = ([*tensors],), [dict.fromkeys(declared.get(name, ())) for name in call.names]
    first = [{0: None} if value.dim() else {} for value in tensors]
    for dims in ([{**a, **b} for a, b in zip(first, own, strict=True)], own):
        program = export_dynamic(call, args, (dims,))
        try:
            shapes = tied(call, tensors, named_shapes(program))
            return bounded_unit("forward", call, args, program, shapes), shapes, reason
        except InexpressibleError as error:
            reason = reason or str(error).partition(": a compiled model keeps")[0]
    static: list[Shape] = [{} for _ in tensors]
    return capture_unit("forward", call, args, (static,)), static, reason


def _inputs(program: ExportedProgram, names: list[str], shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """Describe every tensor argument, in order, by name, dtype and shape; dynamic sizes are symbols.

    Indices into a table also have `below`, the exclusive upper bound of their values, and `least`, the lower
    one. Arguments with bounded dynamic sizes have `longest`, the largest size of each dimension or None.

    Args:
        program: the exported call.
        names: of the arguments.
        shapes: their dynamic dimensions.

    Returns:
        The descriptions, JSON-ready.
    """
    bounds, user_inputs = index_bounds(program), map(str, program.graph_signature.user_inputs)
    described = []
    for name, placeholder, value, sizes in zip(
        names, user_inputs, input_values(program), shapes, strict=True
    ):
        shape = [str(sizes[dim]) if dim in sizes else size for dim, size in enumerate(value.shape)]
        entry: dict[str, Any] = {
            "name": name,
            "dtype": dtype_name(value.dtype),
            "shape": shape,
        }
        if placeholder in bounds.below or placeholder in bounds.least:
            entry["below"] = bounds.below.get(placeholder, _INTEGERS.max)
            entry["least"] = bounds.least.get(placeholder, _INTEGERS.min)
        longest = [bounds.longest(program, placeholder, dim) for dim in range(value.dim())]
        described.append(entry if longest.count(None) == len(longest) else {**entry, "longest": longest})
    return described
