"""Which arguments of a unit are caches: memory of the caller's that holds room for more tokens.

An operator that appends writes only the new tokens: its output is the memory of the cache that it was given,
some tokens longer.
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
        inputs: positions among the unit's inputs of caches whose heads may lie apart.
        outputs: positions among its outputs of such caches, which are then longer.
        stacks: those that grow, as positions of (input, output), in groups of equal shape and type. A group
            is one argument, with a dimension more in front: a step of a small model takes as long as making
            a few dozen tensors does.
    """

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    stacks: tuple[tuple[tuple[int, int], ...], ...] = ()


def caches_of(unit: LoweringContext, inputs: int) -> Caches:
    """The packed caches among the first `inputs` placeholders of a unit."""
    places = {node: place for place, node in enumerate(unit.graph.find_nodes(op="placeholder")[:inputs])}
    named = {name for slot in unit.caches for name in (slot.key_input, slot.value_input)}
    packed = {node: place for node, place in places.items() if node.name in named and _is_packed(node)}
    outputs: Any = unit.graph.output_node().args[0]  # an output node has no schema
    grown = {place: past for place, node in enumerate(outputs) if (past := _extended(node)) is not None}
    stacks: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place, cache in grown.items():
        value = cache.meta["val"]
        stacks.setdefault((str(value.shape), str(value.dtype)), []).append((packed[cache], place))
    return Caches(frozenset(packed.values()), frozenset(grown), tuple(map(tuple, stacks.values())))


def _extended(node: fx.Node) -> fx.Node | None:
    """The cache that a node extends in place, if it appends to one."""
    operator = operator_of(node)
    names = operator.having(Past) if operator is not None else {}
    return next((getattr(operands(node), name) for name in names), None)


def _is_packed(cache: fx.Node) -> bool:
    return not cache.meta["val"].is_floating_point()
