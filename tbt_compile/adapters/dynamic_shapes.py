"""The dimensions of a plain module's inputs that `lower` is told to leave dynamic.

`dynamic_shapes` has the form that torch.export takes: one entry per tensor argument, by name or in order.
Each is a dict from dimensions to a `Dim`, or a sequence with one entry per dimension, or None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.export import Dim

from tbt_compile.adapters import call_record
from tbt_compile.adapters.units import ExportUnits
from tbt_compile.errors import LoweringError, did_you_mean
from tbt_compile.size_bounds import SizeBound, tightest

_DYNAMIC = (Dim.AUTO, Dim.DYNAMIC)
_REASON = "dynamic_shapes says so"


@contextmanager
def declared_shapes(model: nn.Module, dynamic_shapes: Any) -> Iterator[None]:
    """Export the model in the `with` block with the dimensions dynamic that are declared.

    Args:
        model: a prepared or frozen plain module.
        dynamic_shapes: as torch.export takes it, or None.

    Raises:
        LoweringError: an argument or a dimension does not exist, or an entry is none of a `Dim`; or the model
            generates text, whose sizes are always dynamic.
    """
    can_generate = getattr(model, "can_generate", None)
    if dynamic_shapes is not None and can_generate is not None and can_generate():
        name = type(model).__name__.removeprefix("Quantized")
        raise LoweringError(
            f"dynamic_shapes: {name} generates text, and its batch and lengths are always dynamic; leave it "
            "out"
        )
    call = call_record.recorded(model)
    if dynamic_shapes is None or call is None:
        yield
        return
    found = _dimensions(call, dynamic_shapes)
    declared = [
        {**each, "free": sorted({*each.get("free", ()), *found[each["name"]]})}
        if found.get(each["name"])
        else each
        for each in call
    ]
    call_record.restore(model, declared)
    try:
        yield
    finally:
        call_record.restore(model, call)


def check_declared(model: nn.Module, units: ExportUnits, dynamic_shapes: Any) -> None:
    """Check that every declared dimension is dynamic, and bound its size as its `Dim` says.

    Args:
        model: was exported.
        units: its units; bounds are added to their settings.
        dynamic_shapes: as torch.export takes it, or None.

    Raises:
        LoweringError: a dimension is fixed by the forward.
    """
    if dynamic_shapes is None:
        return
    name = type(model).__name__.removeprefix("Quantized")
    shapes = {each["name"]: each["shape"] for each in units.settings["inputs"]}
    bounds = [SizeBound(**bound) for bound in units.settings["bounds"]]
    for argument, dims in _dimensions(call_record.recorded(model) or [], dynamic_shapes).items():
        for dim, wanted in dims.items():
            size = shapes[argument][dim]
            if isinstance(size, int):
                raise LoweringError(
                    f"dynamic_shapes: dimension {dim} of {argument!r} is fixed to {size} by the forward of "
                    f"{name}, which branches on it or relates it to another size; declare it static"
                )
            for limit, largest in ((wanted.min, False), (wanted.max, True)):
                if limit is not None and 1 < limit < _ENDLESS:
                    bounds.append(SizeBound(size, int(limit), largest, _REASON))
    units.settings["bounds"] = [bound.to_dict() for bound in tightest(bounds)]


_ENDLESS = 2**31
"""Torch's `Dim` without a largest size has a larger one."""


def _dimensions(call: call_record.Record, dynamic_shapes: Any) -> dict[str, dict[int, Any]]:
    """The declared dimensions of each argument."""
    tensors = {each["name"]: len(each["shape"]) for each in call if "shape" in each}
    if isinstance(dynamic_shapes, Mapping):
        entries = dict(dynamic_shapes)
    elif isinstance(dynamic_shapes, Sequence) and len(dynamic_shapes) <= len(tensors):
        entries = dict(zip(tensors, dynamic_shapes, strict=False))
    else:
        raise LoweringError(
            f"dynamic_shapes has to be a dict by argument, or a sequence for {', '.join(tensors)}"
        )
    for name in entries:
        if name not in tensors:
            raise LoweringError(
                f"dynamic_shapes: there is no tensor argument {name!r}.{did_you_mean(str(name), tensors)}"
            )
    return {name: _of_argument(name, entry, tensors[name]) for name, entry in entries.items()}


def _of_argument(name: str, entry: Any, rank: int) -> dict[int, Any]:
    if entry is None:
        return {}
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        entry = dict(enumerate(entry))
    if not isinstance(entry, Mapping):
        raise LoweringError(f"dynamic_shapes of {name!r}: expected a dict from dimensions to a Dim, or None")
    found = {}
    for dim, wanted in entry.items():
        if not isinstance(dim, int) or not -rank <= dim < rank:
            raise LoweringError(f"dynamic_shapes of {name!r}: it has {rank} dimensions, and no {dim!r}")
        if wanted is None or isinstance(wanted, int) or wanted == Dim.STATIC:
            continue
        if not hasattr(wanted, "min") or not hasattr(wanted, "max"):
            raise LoweringError(
                f"dynamic_shapes of {name!r}: dimension {dim} is {wanted!r}; expected torch.export.Dim, "
                "Dim.AUTO, or None for a static one"
            )
        found[dim % rank] = wanted
    return found
