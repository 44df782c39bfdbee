"""What the adapters hand to the compiler: a model as functions of tensors alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tbt_compile.passes.export import export_program
from tbt_compile.passes.lowering.context import CacheSlot, LoweringContext

# Units that wrap the user's model hold it under this name.
ROOT = "model."


@dataclass(frozen=True)
class ExportUnits:
    """The captured units of one model.

    Attributes:
        kind: of the compiled folder, which says what class runs it (see `tbt_compile.runtime`).
        contexts: one per compiled function.
        settings: what that class has to know beside the functions, as JSON-ready values.
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
    """One unit that wraps a model, exported in eval mode; `dims` are the dynamic shapes of `args`."""
    program = export_program(unit.eval(), args, dynamic_shapes=dims)
    return LoweringContext(name, program, caches, ROOT)
