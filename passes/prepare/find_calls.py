"""Find sites that are calls of functions: products and lookups with a weight of no layer, and attention.

`find_sites` finds layers by their modules. These sites have only the function call that makes them, which is known
by its number in the forward of its owner (see `number_calls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from tbt_compile.modules.products import (
    EMBEDDING,
    SDPA,
    Contraction,
    contraction,
    operands_of,
    product_name,
)
from tbt_compile.ops.operands import operands
from tbt_compile.passes.prepare.number_calls import caller, number_of


@dataclass(frozen=True)
class CallSite:
    """A call of a product function in the forward of a module.

    Attributes:
        number: its number among the product calls of the forward.
        function: the name of the function.
        reverse: whether the operands are in the other order: the weight first, or the key, or the value.
        frees: names of the parameters that nothing else reads.
    """

    number: int
    function: str
    reverse: bool = False
    frees: tuple[str, ...] = ()


@dataclass
class Dataflow:
    """What the nodes of a captured graph depend on.

    Attributes:
        active: the nodes that depend on an input of the model.
        parameters: of every other node, the names of the parameters that it is computed from.
    """

    active: set[fx.Node] = field(default_factory=set)
    parameters: dict[fx.Node, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: fx.Graph, model: nn.Module) -> Dataflow:
        """Analyse a graph captured from the model."""
        known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        found = cls()
        for node in graph.nodes:
            if node.op == "placeholder" or any(x in found.active for x in node.all_input_nodes):
                found.active.add(node)
                continue
            names = {str(node.target)} & known if node.op == "get_attr" else set()
            found.parameters[node] = frozenset(names.union(*(found.parameters[x] for x in node.all_input_nodes)))
        return found

    def is_weight(self, value: object) -> bool:
        """Whether a value is computed from parameters, and from no input."""
        return isinstance(value, fx.Node) and bool(self.parameters.get(value))

    def is_active(self, value: object) -> bool:
        """Whether a value depends on an input."""
        return value in self.active

    def frees(self, weight: fx.Node, call: fx.Node) -> tuple[str, ...]:
        """The parameters that only this call reads: their floats are not needed once the weight is packed."""
        names = self.parameters[weight]
        readers = [
            node
            for node in (*self.active, *self.parameters)
            if node is not call
            and node in self.active
            and any(names & self.parameters.get(x, frozenset()) for x in node.all_input_nodes)
        ]
        return tuple(sorted(names)) if not readers else ()


def factors(node: fx.Node) -> tuple[Any, Any] | None:
    """Both factors of a product in the captured graph; None for an einsum of other than two operands."""
    name = product_name(node.target)
    assert name is not None
    found = operands_of(name, node.args, node.kwargs)
    if name == "einsum":
        return (found[0], found[1]) if len(found) == 2 else None
    first, second = {"addmm": (1, 2), "baddbmm": (1, 2)}.get(name, (0, 1))
    return found[first], found[second]


def shape_of_weight(node: fx.Node, reverse: bool) -> tuple[int, int] | None:
    """Rows and columns of the weight of a product; None if it is not one matrix for all inputs."""
    found = contracted(node)
    if found is None:
        return None
    weight = (found.swapped() if reverse else found).right
    return (int(weight.shape[0]), int(weight.shape[1])) if weight.dim() == 2 else None


def contracted(node: fx.Node) -> Contraction | None:
    """The contraction that a node computes, on tensors without data."""
    name = product_name(node.target)
    assert name is not None
    args, kwargs = (map_arg(part, _meta) for part in (node.args, node.kwargs))
    return contraction(name, args, kwargs)


def _meta(node: fx.Node) -> Any:
    value = node.meta["val"]
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, torch.Tensor) else value


def is_lookup(node: fx.Node) -> bool:
    """Whether a node looks up rows of a table."""
    return product_name(node.target) in (EMBEDDING, "embedding_lookup")


def is_fused_attention(node: fx.Node) -> bool:
    """Whether a node is a `scaled_dot_product_attention`."""
    return product_name(node.target) == SDPA


def fused_operands(node: fx.Node) -> dict[str, fx.Node]:
    """Query, key and value of a `scaled_dot_product_attention`; the probabilities are inside of it."""
    call = operands(node)
    return {"query": call.query, "key": call.key, "value": call.value}


def call_site(
    node: fx.Node, calls: dict[str, tuple[str, ...] | None], reverse: bool = False, frees: Sequence[str] = ()
) -> CallSite | str:
    """The call that a node of the captured graph is, or why it cannot be told from other calls."""
    name = caller(node)
    names, number = calls.get(name), number_of(node)
    if names is None or number is None or number >= len(names):
        return (
            f"{product_name(node.target)} is called in another way each time that the module runs; "
            "split the module, so that each makes the same calls every time"
        )
    return CallSite(number, names[number], reverse, tuple(frees))
