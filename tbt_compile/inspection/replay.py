"""Compute the nodes of a lowered unit again in PyTorch, and compare them with what compiled code returned."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from tbt_compile.inspection.checks import NodeCheck
from tbt_compile.inspection.tapped_library import Array, same_bits
from tbt_compile.ops.exact import exact
from tbt_compile.ops.operands import operands
from tbt_compile.ops.schema import operator_of
from tbt_compile.passes.lowering import LoweringContext
from tbt_compile.passes.prepare.aten import owner
from tbt_compile.storage.frozen_quantizers import owner_of

# The operand that each operator quantizes: the names of it, of its scale, encoding and centring.
_QUANTIZES = {
    "bit_linear": ("x", "x_scale", "x_encoding", "center"),
    "attention": ("query", "query_scale", "query_encoding", "center_query"),
    "attention_scores": ("query", "query_scale", "query_encoding", "center"),
    "attention_context": ("weights", "weights_scale", "weights_encoding", "center"),
    "pack_keys": ("keys", "scale", "encoding", "center"),
    "append_keys": ("keys", "scale", "encoding", "center"),
    "pack_values": ("values", "scale", "encoding", "center"),
    "append_values": ("values", "scale", "encoding", "center"),
}


@dataclass
class _Sums:
    """What adds up over the calls of a node."""

    node: fx.Node
    layer: str
    calls: int = 0
    elements: int = 0
    differing: int = 0
    largest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    codes: int = 0
    flipped: int = 0

    def check(self, unit: str) -> NodeCheck:
        operator, target = operator_of(self.node), self.node.target
        sqnr = 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else None
        return NodeCheck(
            unit,
            self.node.name,
            self.layer,
            str(operator or target).removesuffix(".default"),
            operator is not None and _on_codes(self.node),
            self.calls,
            self.elements,
            self.differing,
            self.largest,
            sqnr,
            self.codes,
            self.flipped,
        )


@dataclass
class UnitReplay:
    """The reference of one unit.

    Attributes:
        unit: lowered, with the tensors of the frozen model.
        taps: nodes whose results follow the unit's outputs.
    """

    unit: LoweringContext
    taps: Sequence[str]
    _sums: dict[str, _Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        returned: Any = self.unit.graph.output_node().args[0]
        made = [
            node.name if isinstance(node, fx.Node) and node.op == "call_function" else "" for node in returned
        ]
        self._names = [*made, *self.taps]
        nodes = {node.name: node for node in self.unit.graph.nodes}
        for node in nodes.values():
            if node.name in self._names:
                self._sums[node.name] = _Sums(node, _layer(node, self.unit.root))

    def checks(self) -> list[NodeCheck]:
        """The nodes in order, over all calls so far."""
        return [sums.check(self.unit.name) for sums in self._sums.values() if sums.calls]

    def compare(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Compare one call.

        Every node is computed from what compiled code computed before it, so that a node that differs is at
        fault itself. If one does, the unit runs once more on the reference's own values.

        Args:
            inputs: of the unit.
            outputs: of the unit, with those of the taps.
        """
        found = {name: _tensor(array) for name, array in zip(self._names, outputs, strict=True) if name}
        arguments = self._arguments(inputs)
        with torch.no_grad(), exact():
            fed = _Interpreter(self.unit, found)
            fed.run(*arguments)
        equal = True
        for name, sums in self._sums.items():
            equal &= _add(sums, fed.results[name], found[name], fed.codes.get(name))
        if equal:
            return
        with torch.no_grad(), exact():
            own = _Interpreter(self.unit, dict.fromkeys(found))
            own.run(*arguments)
        for name, sums in self._sums.items():
            reference, value = own.results[name], found[name]
            if value.is_floating_point():
                finite = reference.isfinite() & value.isfinite()
                one, other = reference[finite].double(), value[finite].double()
                sums.signal += float(one.square().sum())
                sums.noise += float((one - other).square().sum())
            if name in own.codes:
                sums.flipped += int((own.codes[name] != fed.codes[name]).sum())

    def _arguments(self, inputs: Sequence[Array]) -> list[Tensor]:
        program = self.unit.program
        stored: Mapping[str, Any] = {**program.state_dict, **program.constants}
        given = iter(inputs)
        return [
            _tensor(next(given)) if spec.kind is InputKind.USER_INPUT else stored[str(spec.target)]
            for spec in program.graph_signature.input_specs
        ]


class _Interpreter(fx.Interpreter):
    """Runs a graph, with values found elsewhere in the place of results.

    Attributes:
        results: what was computed for each node in `found`.
        codes: what their quantized operands were rounded to.
    """

    def __init__(self, unit: LoweringContext, found: Mapping[str, Tensor | None]) -> None:
        super().__init__(unit.program.graph_module)
        self.found = found
        self.results: dict[str, Tensor] = {}
        self.codes: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name not in self.found:
            return result
        self.results[n.name] = result
        codes = self._codes(n)
        if codes is not None:
            self.codes[n.name] = codes
        value = self.found[n.name]
        return result if value is None else value

    def _codes(self, node: fx.Node) -> Tensor | None:
        operator = operator_of(node)
        if operator is None or operator.name not in _QUANTIZES or not _on_codes(node):
            return None
        call = vars(operands(node))
        *named, encoding, center = (call[name] for name in _QUANTIZES[operator.name])
        values: Any = self.map_nodes_to_values(tuple(named), node)
        x, scale = values
        if block := call.get("hadamard", 0):
            x = torch.ops.tbt.hadamard(x, block)
        codes, _ = torch.ops.tbt.quantize(x, scale, encoding, center, call.get("floor", 0.0))
        return codes


def _layer(node: fx.Node, root: str) -> str:
    """The module that a node belongs to; one that was taken from a part of a list has its own name."""
    name = re.sub(r"\.slice\([^)]*\)", "", owner(node).removeprefix(root))
    return owner_of({"module": name})


def _on_codes(node: fx.Node) -> bool:
    """Whether an operator multiplies, looks up or packs codes."""
    operator = operator_of(node)
    if operator is None:
        return False
    encoding = _QUANTIZES.get(operator.name, ("",) * 4)[2]
    if encoding:
        return vars(operands(node))[encoding] != "float"
    return operator.name == "bit_embedding"


def _add(sums: _Sums, reference: Tensor, value: Tensor, codes: Tensor | None) -> bool:
    """Add one call of a node; returns whether all bits are equal."""
    one, other = reference.contiguous().numpy(), value.numpy()
    sums.calls += 1
    sums.elements += value.numel()
    sums.codes += 0 if codes is None else codes.numel()
    if one.shape != other.shape:
        sums.differing += value.numel()
        return False
    differs = ~same_bits(one, other)
    count = int(differs.sum())
    if count:
        sums.differing += count
        distance = np.abs(one[differs].astype(np.float64) - other[differs].astype(np.float64))
        sums.largest = max(sums.largest, float(distance.max()))
    return not count


def _tensor(array: Array) -> Tensor:
    """A tensor with a copy of an array; the words of packed codes are int64 in PyTorch."""
    copied = np.array(array, order="C")
    return torch.from_numpy(copied.view(np.int64) if copied.dtype == np.uint64 else copied)
