"""Which values of a captured graph depend on its inputs, and which on parameters alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx, nn
from torch.utils import _pytree as pytree

from tbt_compile.passes.base import target_name
from tbt_compile.passes.prepare.aten import changed_in_place


@dataclass
class Dataflow:
    """What the nodes of a captured graph depend on.

    Attributes:
        active: the nodes that depend on an input of the model.
        order: the calls among them, as they are in the graph.
        parameters: of every other node, the names of the parameters that it is computed from.
    """

    active: set[fx.Node] = field(default_factory=set)
    parameters: dict[fx.Node, frozenset[str]] = field(default_factory=dict)
    order: list[fx.Node] = field(default_factory=list)

    @classmethod
    def of(cls, graph: fx.Graph, model: nn.Module) -> Dataflow:
        """Analyse a graph captured from the model."""
        known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        found = cls()
        for node in graph.nodes:
            if node.op == "placeholder" or any(x in found.active for x in node.all_input_nodes):
                found.active |= {node, *changed_in_place(node)}
                found.order += [node] if node.op == "call_function" else []
                continue
            names = {str(node.target)} & known if node.op == "get_attr" else set()
            found.parameters[node] = frozenset(
                names.union(*(found.parameters[x] for x in node.all_input_nodes))
            )
        return found

    def is_weight(self, value: object) -> bool:
        """Whether a value is computed from parameters, and from no input."""
        return isinstance(value, fx.Node) and bool(self.parameters.get(value))

    def is_active(self, value: object) -> bool:
        """Whether a value depends on an input."""
        return value in self.active

    def is_same(self, first: object, second: object) -> bool:
        """Whether two values are computed from the same parameters in the same way."""
        pairs, seen = [(first, second)], set[tuple[fx.Node, fx.Node]]()
        while pairs:
            a, b = pairs.pop()
            if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
                if a != b:
                    return False
            elif a is not b and (a, b) not in seen:
                one, other = (pytree.tree_leaves((node.args, node.kwargs)) for node in (a, b))
                if (a.op, a.target, len(one)) != (b.op, b.target, len(other)) or self.is_active(a):
                    return False
                seen.add((a, b))
                pairs += zip(one, other, strict=True)
        return True

    def readers(self, weight: fx.Node) -> dict[str, frozenset[str]]:
        """For each parameter of a weight, the names of the nodes that depend on an input and read it."""
        return {name: self._readers(name) for name in sorted(self.parameters[weight])}

    def operators(self) -> dict[str, list[str]]:
        """For each parameter, the names of the operators that read it together with an input, in order."""
        found: dict[str, list[str]] = {}
        for node in self.order:
            for name in sorted(
                frozenset().union(*(self.parameters.get(x, ()) for x in node.all_input_nodes))
            ):
                found.setdefault(name, []).append(target_name(node))
        return found

    def _readers(self, name: str) -> frozenset[str]:
        def reads(node: fx.Node) -> bool:
            return any(name in self.parameters.get(x, ()) for x in node.all_input_nodes)

        return frozenset(node.name for node in self.active if reads(node))
