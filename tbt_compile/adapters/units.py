"""Export units: a model as pure functions of tensors, which adapters hand to the compiler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from tbt_compile.dtypes import HALVES, dtype_name
from tbt_compile.errors import LoweringError
from tbt_compile.modules import evaluation_mode
from tbt_compile.passes.export import export_program
from tbt_compile.passes.lowering.context import CacheSlot, LoweringContext
from tbt_compile.passes.prepare.aten import owner

# Units that wrap the user's model hold it under this name.
ROOT = "model."


@dataclass(frozen=True)
class ExportUnits:
    """The exported units of one model.

    Attributes:
        kind: kind of the compiled folder, which selects the class that runs it (see `tbt_compile.runtime`).
        contexts: one per compiled function.
        settings: what that class needs besides the functions, as JSON-ready values.
    """

    kind: str
    contexts: tuple[LoweringContext, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def capture_unit(
    name: str,
    unit: nn.Module,
    args: tuple[Any, ...],
    dims: tuple[Any, ...],
    caches: tuple[CacheSlot, ...] = (),
) -> LoweringContext:
    """Export a module that wraps a model, in eval mode.

    Args:
        name: of the compiled function.
        unit: holds the user's model as `model`.
        args: example inputs.
        dims: the dynamic shapes of `args`, as `torch.export` takes them.
        caches: inputs and outputs of the unit that are KV caches.

    Returns:
        The exported program, ready for the lowering passes.

    Raises:
        LoweringError: the model computes something in half precision.
    """
    program = export_program(evaluation_mode(unit), args, dynamic_shapes=dims)
    _check_full_precision(program)
    return LoweringContext(name, program, caches, ROOT)


def _check_full_precision(program: ExportedProgram) -> None:
    """Refuse casts to half precision: the compiler would drop them, and with them their rounding."""
    for node in program.graph.nodes:
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if dtype in HALVES:
            module = owner(node).removeprefix(ROOT)
            raise LoweringError(
                f"module {module!r} casts to {dtype_name(dtype)} in its forward ({node.name}): compiled "
                "models compute in float32; cast to the dtype of its input or of a weight instead"
            )
