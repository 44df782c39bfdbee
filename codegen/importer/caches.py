"""Find the cache arguments of a unit, which the caller allocates with room for more tokens.

Append operators work in place: the output aliases the input cache and is some tokens longer; only the new
tokens are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.ops.operands import operands
from tbt_compile.ops.schema import Past, operator_of
from tbt_compile.passes.lowering import LoweringContext


@dataclass(frozen=True)
class Caches:
    """The caches of one unit.

    Attributes:
        inputs: positions of the caches among the unit's inputs; their heads are strided.
        outputs: positions of the caches among the unit's outputs, each longer than its input.
        stacks: positions (input, output) of the caches that grow, in groups of equal shape and dtype. A group
            is one argument with an extra leading dimension: creating dozens of tensors takes as long as a
            decoding step of a small model.
    """

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    stacks: tuple[tuple[tuple[int, int], ...], ...] = ()


def caches_of(unit: LoweringContext, inputs: int) -> Caches:
    """Find the packed caches among the first `inputs` placeholders of a unit."""
    positions = {node: index for index, node in enumerate(unit.graph.find_nodes(op="placeholder")[:inputs])}
    named = {name for slot in unit.caches for name in (slot.key_input, slot.value_input)}
    packed = {node: index for node, index in positions.items() if node.name in named and _is_packed(node)}
    outputs: Any = unit.graph.output_node().args[0]  # an output node has no schema
    grown = {index: past for index, node in enumerate(outputs) if (past := _extended(node)) is not None}
    stacks: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for index, cache in grown.items():
        value = cache.meta["val"]
        stacks.setdefault((str(value.shape), str(value.dtype)), []).append((packed[cache], index))
    return Caches(frozenset(packed.values()), frozenset(grown), tuple(map(tuple, stacks.values())))


def _extended(node: fx.Node) -> fx.Node | None:
    """The cache that an append operator extends in place; None for any other node."""
    operator = operator_of(node)
    names = operator.having(Past) if operator is not None else {}
    return next((getattr(operands(node), name) for name in names), None)


def _is_packed(cache: fx.Node) -> bool:
    return not cache.meta["val"].is_floating_point()
