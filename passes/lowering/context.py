"""The state of the lowering pipeline: one export unit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import sympy
import torch
from torch import fx

from tbt_compile.size_bounds import SizeBound


@dataclass(frozen=True)
class CacheSlot:
    """Where the keys and values of one attention layer enter and leave a unit.

    Attributes:
        key_input, value_input: names of the placeholders; None if the unit creates the cache.
        key_output, value_output: positions among the unit's outputs; None if the unit only reads the cache.
    """

    key_input: str | None = None
    value_input: str | None = None
    key_output: int | None = None
    value_output: int | None = None


@dataclass
class LoweringContext:
    """One export unit (encoder, first step or step) being lowered.

    Attributes:
        name: of the unit, and of the compiled function.
        program: the exported program; its graph is rewritten in place.
        caches: the attention caches among the unit's inputs and outputs.
        root: prefix of the unit's module names that the user's model lacks; messages strip it.
        bounds: what the branches of the model require of the sizes of a call.
        extents: the program's symbols as expressions in those sizes.
    """

    name: str
    program: torch.export.ExportedProgram
    caches: tuple[CacheSlot, ...] = ()
    root: str = ""
    bounds: tuple[SizeBound, ...] = ()
    extents: Mapping[sympy.Symbol, sympy.Expr] = field(default_factory=dict)

    @property
    def graph(self) -> fx.Graph:
        """The graph being rewritten."""
        return self.program.graph_module.graph

    def copy(self) -> LoweringContext:
        """The unit with a graph and a signature of its own; parameters and constants are shared."""
        program = self.program
        copied = torch.export.ExportedProgram(
            root=program.graph_module,
            graph=copy.deepcopy(program.graph),
            graph_signature=copy.deepcopy(program.graph_signature),
            state_dict=program.state_dict,
            range_constraints=program.range_constraints,
            module_call_graph=program.module_call_graph,
            example_inputs=program.example_inputs,
            constants=dict(program.constants),
            verifiers=program.verifiers,
        )
        return replace(self, program=copied)

    def graphs(self) -> Mapping[str, fx.GraphModule]:
        """The unit's graph under the unit's name."""
        return {self.name: self.program.graph_module}

    def describe(self) -> str:
        """The cache slots, one per line."""
        return "\n".join(str(slot) for slot in self.caches)
