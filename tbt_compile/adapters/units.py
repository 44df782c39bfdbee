"""Export units: a model as pure functions of tensors, which adapters hand to the compiler."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from tbt_compile.adapters.repeatable import check_repeatable
from tbt_compile.adapters.smallest_sizes import smallest_sizes
from tbt_compile.dtypes import HALVES, dtype_name
from tbt_compile.errors import LoweringError
from tbt_compile.modules import evaluation_mode
from tbt_compile.modules.whole_operators import whole_operators
from tbt_compile.ops.linear import sampled_rows
from tbt_compile.passes.capture_errors import explained
from tbt_compile.passes.check_autocast import check_autocast
from tbt_compile.passes.check_function import check_function
from tbt_compile.passes.export import export_program
from tbt_compile.passes.lowering.context import CacheSlot, LoweringContext
from tbt_compile.passes.prepare.aten import owner
from tbt_compile.passes.size_guards import Shape, extents_of_symbols, size_bounds

log = logging.getLogger(__name__)

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


@contextmanager
def cheap_layers() -> Iterator[None]:
    """Run a model for the shapes of its results, and for what it does, not for the numbers."""
    with whole_operators(), sampled_rows():
        yield


@contextmanager
def stepping(model: nn.Module) -> Iterator[None]:
    """Run a model with a cache of keys and values in the `with` block.

    Raises:
        LoweringError: it fails, as models with a cache of another kind do.
    """
    try:
        with cheap_layers():
            yield
    except LoweringError:
        raise
    except Exception as error:  # whatever a model does with a cache that is not of its kind
        raise LoweringError(
            f"{type(model).__name__} cannot be run step by step with a cache of keys and values ({error}): "
            "run the frozen model in eager mode"
        ) from error


def capture_unit(
    name: str,
    unit: nn.Module,
    args: tuple[Any, ...],
    sizes: tuple[Any, ...],
    caches: tuple[CacheSlot, ...] = (),
) -> LoweringContext:
    """Export a module that wraps a model, in eval mode.

    Args:
        name: of the compiled function.
        unit: holds the user's model as `model`.
        args: example inputs.
        sizes: the dynamic dimensions of `args`, in the same structure, as expressions in the sizes of a call
            (see `passes.size_guards.size`); None or {} for a static argument.
        caches: inputs and outputs of the unit that are KV caches.

    Returns:
        The exported program, ready for the lowering passes, with bounds on the sizes of a call.

    Raises:
        LoweringError: the model cannot be captured, computes something in half precision, or branches on a
            size in a way that bounds cannot express.
    """
    shapes = pytree.tree_leaves(sizes, is_leaf=_is_shape)
    with _unchecked():
        program = export_dynamic(unit, args, sizes)
    log.info("captured %s in %d nodes; checking it at other sizes", name, len(program.graph.nodes))
    return bounded_unit(name, unit, args, program, shapes, caches)


def export_dynamic(unit: nn.Module, args: tuple[Any, ...], dims: tuple[Any, ...]) -> ExportedProgram:
    """Export a unit, in eval mode, with the dimensions dynamic that are keys in `dims`, as far as it allows.

    Args:
        unit: the module.
        args: example inputs.
        dims: a dict or None per argument, in the structure of `args`.

    Returns:
        The program.

    Raises:
        LoweringError: the model cannot be captured.
    """
    shapes, structure = pytree.tree_flatten(dims, is_leaf=_is_shape)
    dynamic = pytree.tree_unflatten([dict.fromkeys(shape or {}, Dim.AUTO) for shape in shapes], structure)
    try:
        with whole_operators():
            return export_program(evaluation_mode(unit), args, dynamic_shapes=dynamic)
    except Exception as error:
        model: Any = unit.model
        raise LoweringError(
            f"{type(model).__name__} cannot be captured for compilation: {explained(error, model)}"
        ) from error


def bounded_unit(
    name: str,
    unit: nn.Module,
    args: tuple[Any, ...],
    program: ExportedProgram,
    shapes: Sequence[Shape | None],
    caches: tuple[CacheSlot, ...] = (),
) -> LoweringContext:
    """Check an exported unit, and find the bounds on the sizes of its calls.

    Args:
        name: of the compiled function.
        unit: as for `capture_unit`.
        args: as for `capture_unit`.
        program: what `export_dynamic` returned.
        shapes: the dynamic dimensions of every argument, flat.
        caches: as for `capture_unit`.

    Returns:
        As for `capture_unit`.

    Raises:
        LoweringError: as for `capture_unit`.
    """
    dynamic = [shape or {} for shape in shapes]
    bounds = size_bounds(program, dynamic, f"the {name} of {type(unit.model).__name__}")
    check_autocast(program.graph, ROOT)
    check_function(program, ROOT)
    with cheap_layers():
        if all(slot.key_input is None for slot in caches):  # later steps run the modules of the first one
            check_repeatable(unit, args)
        bounds += smallest_sizes(program, unit, args, dynamic, bounds)
    _check_full_precision(program, type(unit.model).__name__)
    extents = extents_of_symbols(program, dynamic)
    return LoweringContext(name, program, caches, ROOT, tuple(bounds), extents)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Leave transformers' checks of values out of a graph: calls of the units are checked before.

    The model itself keeps them, and runs at the sizes of the example and at the smallest ones.
    """
    with patch.dict(os.environ, TRANSFORMERS_DISABLE_TORCH_CHECK="1"):
        yield


def _is_shape(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _check_full_precision(program: ExportedProgram, name: str) -> None:
    """Refuse casts to half precision: the compiler would drop them, and with them their rounding."""
    for node in program.graph.nodes:
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if dtype in HALVES:
            module = owner(node).removeprefix(ROOT.rstrip(".")).removeprefix(".")
            caller = f"module {module!r}" if module else name
            raise LoweringError(
                f"{caller} casts to {dtype_name(dtype)} in its forward ({node.name}): compiled "
                "models compute in float32; cast to the dtype of its input or of a weight instead"
            )
