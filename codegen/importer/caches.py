"""Which arguments of a unit are caches: memory of the caller's that holds room for more tokens.

An operator that appends then writes the new tokens alone: its output is the memory of the cache that it was
given, some tokens longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from tbt_compile.passes.lowering import LoweringContext
from tbt_compile.passes.lowering.match import TBT

_APPEND = (TBT.append_keys.default, TBT.append_values.default)


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
    outputs: Any = unit.graph.output_node().args[0]
    grown = {place: node.args[0] for place, node in enumerate(outputs) if node.target in _APPEND}
    stacks: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place, cache in grown.items():
        value = cache.meta["val"]
        stacks.setdefault((str(value.shape), str(value.dtype)), []).append((packed[cache], place))
    return Caches(frozenset(packed.values()), frozenset(grown), tuple(map(tuple, stacks.values())))


def _is_packed(cache: fx.Node) -> bool:
    return not cache.meta["val"].is_floating_point()
