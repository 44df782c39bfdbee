"""What cannot be compiled, and why: what `plan` says of a captured graph that `lower` will refuse."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tbt_compile.codegen.importer.units import known_operators
from tbt_compile.ops.definitions import composed
from tbt_compile.passes.check_function import reasons_against
from tbt_compile.passes.prepare.aten import described_call


def refusals(graph: fx.Graph) -> list[str]:
    """Why a graph cannot be compiled, one sentence for each call.

    Args:
        graph: a captured graph with attributes, not functional.

    Returns:
        The sentences, without repetition; empty if nothing speaks against compiling the graph.
    """
    found = reasons_against(graph)
    unknown = [node for node in unsupported(graph) if not _can_be_made(_functional(node))]
    found |= {node: refusal(node) for node in unknown if node not in found}
    return list(dict.fromkeys(found.values()))


def _functional(node: fx.Node) -> Any:
    """The operator of a call, or of one that works in place, the operator that does not."""
    target: Any = node.target
    if not target._schema.is_mutable:
        return target
    packet = getattr(torch.ops.aten, target.overloadpacket.__name__.removesuffix("_"), target.overloadpacket)
    name = target._overloadname
    return getattr(packet, name) if name in packet.overloads() else target


def _can_be_made(target: Any) -> bool:
    return target.__name__ in known_operators() or decomposition(target) is not None


def unsupported(graph: fx.Graph) -> list[fx.Node]:
    """The calls of ATen operators that have no converter."""
    known = known_operators()
    return [
        node
        for node in graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and node.target.namespace != "tbt"
        and node.target.__name__ not in known
    ]


@functools.cache
def decomposition(target: Any) -> Callable[..., Any] | None:
    """PyTorch's decomposition of an operator; None if it has none."""
    if target.has_kernel_for_dispatch_key(_COMPOSITE):
        return composed(target)
    core = torch._decomp.core_aten_decompositions()
    return core[target] if target in core else torch._decomp.decomposition_table.get(target)


_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def refusal(node: fx.Node, root: str = "") -> str:
    """Why a call of an operator that has neither a converter nor a decomposition cannot be compiled."""
    return (
        f"{described_call(node, root)}, which has no compiled form: register a converter "
        "(docs/extending/add-an-aten-operator.md), write it with operators that `tbt operators` lists, or "
        "keep that part out of the module that is compiled"
    )
