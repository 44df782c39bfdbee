"""Build lowered units into a library in memory: import, legalize, flatten, compile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tbt_compile.codegen.importer.parameters import PLAIN, Parameter
from tbt_compile.codegen.importer.relax_api import to_kernels
from tbt_compile.codegen.importer.units import ImportedUnits, import_units
from tbt_compile.codegen.library.flatten import FlatUnit, flatten
from tbt_compile.codegen.library.library import Library, compile_functions
from tbt_compile.codegen.library.names import shapes_of
from tbt_compile.codegen.target.spec import TargetSpec
from tbt_compile.codegen.tvm_api import PrimFunc, Target, relax
from tbt_compile.errors import LoweringError, TargetError, TbtError
from tbt_compile.passes.lowering import LoweringContext
from tbt_compile.storage.os_errors import writing


@dataclass(frozen=True)
class BuiltUnits:
    """A library with two functions per unit, see `library.names`, and the data to call them.

    Attributes:
        library: the compiled functions in memory.
        parameters: for each unit, the tensors whose addresses its function takes, in order.
        tensors: the stored tensor of every parameter, by name.
        outputs: for each unit, dtype and number of dimensions of each output argument.
        stacks: for each unit, the caches that grow, as positions among its outputs; a group is one argument,
            see `Caches`.
        kernels: names of the kernels of this package, without those that TVM generates.
        steps: for each unit, the names of its kernels in call order.
        reads: for each unit, the names of the parameters that each step reads.
    """

    library: Library
    parameters: dict[str, list[Parameter]]
    tensors: dict[str, torch.Tensor]
    outputs: dict[str, list[tuple[str, int]]]
    stacks: dict[str, list[list[int]]]
    kernels: list[str]
    steps: dict[str, list[str]]
    reads: dict[str, list[list[str]]]


def compile_units(
    units: list[LoweringContext],
    spec: TargetSpec,
    known: dict[int, str],
    dump: str | Path | None = None,
    clock: bool = False,
    extra: Mapping[str, PrimFunc] | None = None,
) -> BuiltUnits:
    """Import the units into one Relax module and build it for `spec`.

    Args:
        units: the lowered units; each becomes a function, and all share kernels.
        spec: the CPU to build for.
        known: names of the frozen model's tensors by data address; see `import_units`.
        dump: a folder for the Relax module as text, before and after legalization; None to dump nothing.
        clock: whether units measure their steps, see `flatten`.
        extra: more functions for the library, by name.

    Returns:
        The library, its parameters and its outputs.

    Raises:
        LoweringError: TVM cannot import or build a unit.
        TargetError: units are to measure their steps on a system without a clock for it.
    """
    ticks = _clock_of(spec) if clock else None
    imported = import_units(units, spec.isa, known)
    target = Target(spec.code_options)
    _dump(dump, "relax.txt", imported.module)
    try:
        module = to_kernels(imported.module, target)
        _dump(dump, "kernels.txt", module)
        functions: dict[str, PrimFunc] = dict(extra or {})
        flat: dict[str, FlatUnit] = {}
        for variable, function in module.functions.items():
            name = variable.name_hint
            if isinstance(function, relax.Function):
                flat[name] = flatten(
                    function, imported.inputs[name], name, imported.caches[name], clock=ticks
                )
                functions |= {name: flat[name].run, shapes_of(name): flat[name].shapes}
            else:
                functions[name] = function
        library = compile_functions(functions, spec)
    except TbtError:
        raise
    except Exception as error:  # TVM raises many kinds
        raise LoweringError(
            f"the {' and '.join(unit.name for unit in units)} cannot be compiled for {spec.mcpu} "
            f"({type(error).__name__}: {_first_line(error)}): `lower(model, dump=...)` writes the graphs; "
            "keep the part of the model that fails out of the module that is compiled"
        ) from error
    return _built(library, _with_constants(imported, flat), flat)


def _clock_of(spec: TargetSpec) -> int:
    clock = spec.system.monotonic_clock
    if clock is None:
        raise TargetError(
            f"clock=True for {spec.label}: code there has no clock_gettime to measure its steps with; "
            "leave clock out, or compile for another system"
        )
    return clock


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]


def _built(library: Library, imported: ImportedUnits, flat: dict[str, FlatUnit]) -> BuiltUnits:
    outputs = {name: unit.outputs for name, unit in flat.items()}
    stacks = {
        name: [[output for _, output in stack] for stack in caches.stacks]
        for name, caches in imported.caches.items()
    }
    steps = {name: unit.steps for name, unit in flat.items()}
    reads = {
        name: [[imported.parameters[name][place].name for place in places] for places in unit.reads]
        for name, unit in flat.items()
    }
    return BuiltUnits(
        library, imported.parameters, imported.tensors, outputs, stacks, imported.kernels, steps, reads
    )


def _with_constants(imported: ImportedUnits, flat: dict[str, FlatUnit]) -> ImportedUnits:
    """Append the constants that TVM created or folded to the parameters."""
    parameters, tensors = dict(imported.parameters), dict(imported.tensors)
    for unit, functions in flat.items():
        for index, array in enumerate(functions.constants):
            name = f"{unit}.constant_{index}"
            parameters[unit] = [*parameters[unit], Parameter(name, PLAIN, str(array.dtype), array.shape)]
            tensors[name] = torch.from_numpy(array.copy())
    return replace(imported, parameters=parameters, tensors=tensors)


def _dump(folder: str | Path | None, name: str, module: Any) -> None:
    if folder is not None:
        with writing(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(str(module), encoding="utf-8")
