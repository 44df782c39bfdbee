"""Export units made of small modules, and a way to run a rewritten one in torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

import tbt_compile
from tbt_compile.codegen.library.build import compile_units
from tbt_compile.codegen.target.host import host_target
from tbt_compile.encoding import Encoding
from tbt_compile.modules.frozen import FrozenActivation, FrozenWeight
from tbt_compile.ops.quantize import pack
from tbt_compile.passes.lowering import CacheSlot, LoweringContext
from tbt_compile.runtime.bound_library import BoundLibrary

SIGNED = {1: Encoding.BINARY, 2: Encoding.TERNARY, 8: Encoding.INT8}
UNSIGNED = {1: Encoding.BINARY01, 2: Encoding.TERNARY012, 8: Encoding.UINT8}


def export(
    module: nn.Module, *args: Any, caches: tuple[CacheSlot, ...] = (), dims: Any = None, name: str = "unit"
) -> LoweringContext:
    """A module in eval mode as a unit; positional arguments as they are for `torch.export`."""
    program = torch.export.export(module.eval(), args, dynamic_shapes=dims, strict=False)
    return LoweringContext(name, program, caches)


def frozen(module: nn.Module, recipe: str, *args: Tensor) -> nn.Module:
    """A plain module, prepared, run once and frozen."""
    tbt_compile.prepare(module, recipe, args)
    module(*args)
    return tbt_compile.freeze(module).module


def run(unit: LoweringContext, *inputs: Any) -> tuple[Any, ...]:
    """Outputs of the unit's graph as it is now, from user inputs alone."""
    program = unit.program
    stored = {**program.state_dict, **program.constants}
    given = iter(inputs)
    arguments = [
        next(given) if spec.kind is InputKind.USER_INPUT else stored[str(spec.target)]
        for spec in program.graph_signature.input_specs
    ]
    unit.program.graph_module.recompile()
    with torch.no_grad():
        return unit.program.graph_module(*arguments)


def calls(unit: LoweringContext) -> list[str]:
    """Names of the operators that the graph calls, in order."""
    functions = [node.target for node in unit.graph.nodes if node.op == "call_function"]
    return [
        getattr(getattr(target, "overloadpacket", target), "__name__", str(target)) for target in functions
    ]


def activation(bits: int, signed: bool = True, scale: float = 0.7) -> FrozenActivation:
    """A frozen activation quantizer; signed ones are centred, as recipes have it by default."""
    encoding = (SIGNED if signed else UNSIGNED)[bits]
    return FrozenActivation(encoding, signed and bits < 8, torch.tensor(scale))


def weight(bits: int, rows: int, columns: int) -> FrozenWeight:
    """A frozen weight of random codes."""
    levels = torch.tensor(SIGNED[bits].levels)
    codes = levels[torch.randint(len(levels), (rows, columns))]
    return FrozenWeight(pack(codes, SIGNED[bits]), torch.rand(rows, 1) + 0.1, SIGNED[bits], columns)


def library_of(units: list[LoweringContext], known: dict[int, str]) -> BoundLibrary:
    """Lowered units as the functions of one library for this machine; `known` as for `compile_units`."""
    target = host_target()
    built = compile_units(units, target, known)
    functions, tensors = {}, {}
    for name, parameters in built.parameters.items():
        functions[name] = [parameter.name for parameter in parameters]
        for parameter in parameters:
            stored = built.tensors[parameter.name].detach().numpy()
            tensors[parameter.name] = parameter.arrange(stored, target.isa)
    return BoundLibrary(built.library, functions, built.outputs, tensors, {}, built.stacks)
