"""Import lowered units into one Relax module, with unique names for their functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tbt_compile.codegen.importer import (
    convert_arithmetic,
    convert_attention,
    convert_bounds,
    convert_cache,
    convert_division,
    convert_embedding,
    convert_fill,
    convert_linear,
    convert_norm,
    convert_order,
    convert_pointwise,
    convert_reduction,
    convert_scatter,
    convert_shape,
    convert_slices,
    convert_strided,
    convert_variance,
)
from tbt_compile.codegen.importer.bind import bind_parameters, weight_layouts
from tbt_compile.codegen.importer.caches import Caches, caches_of
from tbt_compile.codegen.importer.kernels import Kernels
from tbt_compile.codegen.importer.parameters import Parameter
from tbt_compile.codegen.importer.registry import CONVERTERS, convert_map
from tbt_compile.codegen.importer.relax_api import (
    ConversionError,
    import_program,
    rename_functions,
    tvm_converters,
)
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.tvm_api import IRModule, relax
from tbt_compile.errors import LoweringError
from tbt_compile.passes.lowering import LoweringContext
from tbt_compile.passes.prepare.aten import described_call

CONVERTER_FILES = (
    convert_arithmetic,
    convert_attention,
    convert_bounds,
    convert_cache,
    convert_division,
    convert_embedding,
    convert_fill,
    convert_linear,
    convert_norm,
    convert_order,
    convert_pointwise,
    convert_reduction,
    convert_scatter,
    convert_shape,
    convert_slices,
    convert_strided,
    convert_variance,
)
"""The modules with converters; importing a module registers its converters."""


CHECKS = frozenset({"_assert_tensor_metadata.default"})
"""Operators that a lowering pass removes."""


def known_operators() -> frozenset[str]:
    """The operators and overloads that can be imported, by our converters or TVM's, such as "add.Tensor"."""
    return frozenset(CONVERTERS) | tvm_converters() | CHECKS


@dataclass(frozen=True)
class ImportedUnits:
    """A Relax module with one function per unit.

    Attributes:
        module: the functions of the units, under the units' names, and the kernels that they call.
        parameters: for each unit, its tensor arguments after the user inputs, in order.
        tensors: the stored tensor of every parameter, by name.
        inputs: for each unit, its number of user inputs.
        caches: for each unit, the caches among its inputs and outputs.
        kernels: names of the kernels of this package.
    """

    module: IRModule
    parameters: dict[str, list[Parameter]]
    tensors: dict[str, torch.Tensor]
    inputs: dict[str, int]
    caches: dict[str, Caches]
    kernels: list[str]


def import_units(units: list[LoweringContext], isa: Isa, known: dict[int, str]) -> ImportedUnits:
    """Import lowered units into one Relax module.

    Args:
        units: the lowered units; their graphs and signatures are changed in place.
        isa: instruction set to build kernels for.
        known: names of the frozen model's tensors by data address.

    Returns:
        The module and its parameters.

    Raises:
        LoweringError: a unit holds an operator that TVM cannot import, or a weight is read in two layouts.
    """
    kernels = Kernels(isa)
    functions: dict[Any, Any] = {}
    parameters, inputs, caches = {}, {}, {}
    tensors: dict[str, torch.Tensor] = {}
    layouts = weight_layouts(units, isa)
    for unit in units:
        parameters[unit.name], used = bind_parameters(unit, isa, known, layouts)
        tensors.update(used)
        total = sum(1 for node in unit.graph.nodes if node.op == "placeholder")
        inputs[unit.name] = total - len(parameters[unit.name])
        caches[unit.name] = caches_of(unit, inputs[unit.name])
        merge(functions, import_unit(unit, kernels), unit.name)
    return ImportedUnits(IRModule(functions), parameters, tensors, inputs, caches, sorted(kernels.built))


def import_unit(unit: LoweringContext, kernels: Kernels) -> IRModule:
    """Import one unit into a Relax module whose entry is `main`.

    Raises:
        LoweringError: the unit holds an operator that TVM cannot import.
    """
    try:
        return import_program(unit.program, convert_map(kernels))
    except ConversionError as error:
        raise LoweringError(
            f"{described_call(error.node, unit.root)}, which cannot be compiled: {error}"
        ) from error
    except Exception as error:  # TVM raises many kinds
        raise LoweringError(
            f"the {unit.name} cannot be compiled ({type(error).__name__}): `lower(model, dump=...)` writes "
            "its graph, which shows the operators"
        ) from error


def merge(functions: dict[Any, Any], module: IRModule, unit: str) -> None:
    """Merge the functions of a unit into the module being assembled.

    The entry takes the unit's name, kernels of this package are shared, other functions get a prefix.

    Args:
        functions: the functions so far, by global variable; extended in place.
        module: the imported unit.
        unit: its name.
    """
    taken = {variable.name_hint: variable for variable in functions}
    names = {}
    for variable, function in module.functions.items():
        name = variable.name_hint
        if isinstance(function, relax.Function):
            names[name] = unit
        elif function.attrs and "op_pattern" in function.attrs:
            names[name] = name  # a kernel of this package: its name identifies the spec
        else:
            names[name] = f"{unit}_{name}"
    for variable, function in rename_functions(module, names, taken).items():
        functions.setdefault(variable, function)
