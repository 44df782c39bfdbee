"""Return what the operators of a lowered unit compute as further outputs, to compare it with a reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import OutputKind, OutputSpec, TensorArgument

from tbt_compile.ops.schema import Past, operator_of
from tbt_compile.passes.lowering.context import LoweringContext

_ATEN = torch.ops.aten
# They return a view of their operand, or may.
_VIEWS = frozenset(
    getattr(_ATEN, name)
    for name in ("reshape", "contiguous", "to", "clone", "_to_copy", "detach", "type_as", "expand_as")
)


def add_taps(unit: LoweringContext) -> tuple[str, ...]:
    """Append to a unit's outputs, in place, the result of every operator that computes floats or codes.

    Views are left out, as are caches that grow in place, which are outputs already.

    Args:
        unit: after the lowering passes.

    Returns:
        The names of the nodes, in the order of the graph and of the new outputs.
    """
    returned: Any = unit.graph.output_node().args[0]
    taps = [node for node in unit.graph.nodes if node not in returned and _computes(node)]
    unit.graph.output_node().args = ((*returned, *taps),)
    unit.program.graph_signature.output_specs.extend(
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in taps
    )
    return tuple(node.name for node in taps)


def _computes(node: fx.Node) -> bool:
    """Whether a node is a call that fills a tensor of its own with floats or codes."""
    if node.op != "call_function":
        return False
    operator = operator_of(node)
    if operator is not None:
        return not operator.having(Past)
    value = node.meta.get("val")
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    if schema is None or not isinstance(value, Tensor) or target.overloadpacket in _VIEWS:
        return False
    aliases = any(result.alias_info is not None for result in schema.returns)
    inputs = any(isinstance(each.meta.get("val"), Tensor) for each in node.all_input_nodes)
    return value.dtype is torch.float32 and inputs and not aliases
