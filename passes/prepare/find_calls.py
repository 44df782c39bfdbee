"""What a call of a product function in the captured graph is made of.

A layer is found by its module. A call has only its number in the forward of its owner (see `number_calls`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from tbt_compile.modules.interception import call_name
from tbt_compile.modules.products import (
    CONVOLUTIONS,
    EMBEDDING,
    FACTORS,
    SDPA,
    Contraction,
    contraction,
    operands_of,
    product_name,
)
from tbt_compile.ops.convolutions import OTHER_RANKS, TRANSPOSED, geometry
from tbt_compile.ops.operands import operands
from tbt_compile.passes.prepare.aten import aten
from tbt_compile.passes.prepare.number_calls import caller, number_of
from tbt_compile.passes.prepare.sites import CallSite, FoundSite, SiteKind

# Convolutions without a quantized form, and why.
_NO_FORM = {
    aten.conv3d.default: OTHER_RANKS,
    aten.conv3d.padding: OTHER_RANKS,
    aten.conv_transpose1d.default: TRANSPOSED,
    aten.conv_transpose2d.input: TRANSPOSED,
    aten.conv_transpose3d.input: TRANSPOSED,
}


def factors(node: fx.Node) -> tuple[Any, Any] | None:
    """Both factors of a product in the captured graph; None for an einsum of other than two operands."""
    name = product_name(node.target)
    assert name is not None
    found = operands_of(name, node.args, node.kwargs)
    if name == "einsum":
        return (found[0], found[1]) if len(found) == 2 else None
    first, second = FACTORS[name]
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
    return contraction(*_without_data(node))


def is_convolution(node: fx.Node) -> bool:
    """Whether a node is a convolution, of any kind."""
    return node.target in _NO_FORM or product_name(node.target) in CONVOLUTIONS


def convolution_kind(node: fx.Node) -> SiteKind | str:
    """The kind of site that a convolution is; the reason if it has no quantized form."""
    if node.target in _NO_FORM:
        return _NO_FORM[node.target]
    name, args, kwargs = _without_data(node)
    found = geometry(name, operands_of(name, args, kwargs))
    if isinstance(found, str):
        return found
    return SiteKind.LINEAR if found.pointwise else SiteKind.CONVOLUTION


def _without_data(node: fx.Node) -> tuple[str, Any, Any]:
    """A product as its name, arguments and keyword arguments, on tensors without data."""
    name = product_name(node.target)
    assert name is not None
    args, kwargs = (map_arg(part, _meta) for part in (node.args, node.kwargs))
    return name, args, kwargs


def _meta(node: fx.Node) -> Any:
    value = node.meta["val"]
    return (
        torch.empty(value.shape, dtype=value.dtype, device="meta")
        if isinstance(value, torch.Tensor)
        else value
    )


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
    node: fx.Node, calls: dict[str, tuple[str, ...] | None], reverse: bool, parameters: Sequence[str]
) -> CallSite | str:
    """The call that a node of the captured graph is.

    Args:
        node: a product.
        calls: by module name, the product calls of its forward.
        reverse: as in `CallSite`.
        parameters: as in `CallSite`.

    Returns:
        The call, or why it cannot be told from other calls.
    """
    name = caller(node)
    names, number = calls.get(name), number_of(node)
    if names is None or number is None or number >= len(names):
        return (
            f"{product_name(node.target)} is called in another way each time that the module runs; "
            "split the module, so that each makes the same calls every time"
        )
    return CallSite(number, names[number], reverse, tuple(parameters))


def another_product(site: FoundSite) -> str:
    """Why a call cannot be quantized that has other operands when its module runs again."""
    function = site.call_sites[0].function
    return f"{function} is another product each time that the module runs; use a module for each"


def name_calls(sites: list[FoundSite], graph: fx.Graph, untraceable: Mapping[str, str]) -> None:
    """Name sites after their calls, in place. One attention that can be traced keeps the name of its module.

    A call that is another product when its module runs again gets an obstacle.

    Args:
        sites: of the graph.
        graph: the captured graph.
        untraceable: why the attention of a module cannot be traced, by module name.
    """
    made: dict[tuple[str, int | None], set[fx.Node]] = defaultdict(set)
    for node in graph.nodes:
        made[caller(node), number_of(node)].add(node)
    shared = Counter(site.fqn for site in sites if site.call_sites)
    for site in sites:
        traced = site.traceable and shared[site.fqn] <= 1 and site.fqn not in untraceable
        if traced or not (site.call_sites or site.traceable):
            continue
        if not site.call_sites:
            site.obstacle = untraceable.get(site.fqn, "its products are made by two modules")
            continue
        nodes = {node for call in site.calls for node in (call.node, call.output)}
        if any(made[site.fqn, call.number] - nodes for call in site.call_sites):
            site.obstacle = site.obstacle or another_product(site)
        site.fqn = call_name(site.fqn, site.call_sites[0].number)
