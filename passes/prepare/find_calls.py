"""What a call of a product function in the captured graph is made of.

A layer is found by its module. A call has only its number in the forward of its owner (see `number_calls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx
from torch.fx.node import map_arg

from tbt_compile.modules.products import (
    EMBEDDING,
    FACTORS,
    SDPA,
    Contraction,
    contraction,
    operands_of,
    product_name,
)
from tbt_compile.ops.operands import operands
from tbt_compile.passes.prepare.number_calls import caller, number_of
from tbt_compile.passes.prepare.sites import CallSite


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
    name = product_name(node.target)
    assert name is not None
    args, kwargs = (map_arg(part, _meta) for part in (node.args, node.kwargs))
    return contraction(name, cast(Any, args), cast(Any, kwargs))


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
