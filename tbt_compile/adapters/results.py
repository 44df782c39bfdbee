"""Take apart what a forward returns: its tensors, and how they are put together.

A layout is JSON-ready; `tbt_compile.runtime.results` puts arrays together by it:

    {"tensor": 0}                                            the first tensor
    {"value": None}                                          a constant
    {"tuple": [layout, ...]}, {"list": [layout, ...]}
    {"tuple": [layout, ...], "fields": [...], "class": "package.module:Name"}   a NamedTuple
    {"dict": {"logits": layout, ...}}                        a dict, or a ModelOutput of transformers
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from tbt_compile.errors import LoweringError

Layout = dict[str, Any]
_CONSTANTS = (bool, int, float, str, type(None))


def take_apart(result: Any, name: str) -> tuple[list[Tensor], Layout]:
    """Return the tensors of a result, and its layout.

    Args:
        result: what a forward returned.
        name: of the module, for messages.

    Returns:
        The tensors in order, and the layout.

    Raises:
        LoweringError: the result holds something that compiled modules cannot return.
    """
    tensors: list[Tensor] = []
    return tensors, _layout(result, tensors, name, "a result")


def result_of(module: fx.GraphModule) -> Any:
    """The result of a captured graph, as the module put it together, of tensors without data."""
    (results,) = module.graph.output_node().args
    values = [node.meta["val"] if isinstance(node, fx.Node) else node for node in pytree.tree_leaves(results)]
    codegen: Any = module.graph._codegen
    return pytree.tree_unflatten(values, codegen.pytree_info.out_spec)


def _layout(value: Any, tensors: list[Tensor], name: str, place: str) -> Layout:
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if type(value) in _CONSTANTS:
        return {"value": value}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _layout(item, tensors, name, repr(key)) for key, item in value.items()}}
    if isinstance(value, (tuple, list)):
        kind = type(value)
        items = [_layout(item, tensors, name, f"item {index}") for index, item in enumerate(value)]
        if isinstance(value, list):
            return {"list": items}
        fields = getattr(value, "_fields", None)
        named = (
            {} if fields is None else {"fields": [*fields], "class": f"{kind.__module__}:{kind.__qualname__}"}
        )
        return {"tuple": items, **named}
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        raise LoweringError(
            f"{name} returns {place}, a size (`x.shape[i]`) or a number computed from one: compiled modules "
            "return tensors and plain constants; leave it out, as callers know the shapes"
        )
    raise LoweringError(
        f"{name} returns {place} of type {type(value).__name__}: compiled modules return tensors and plain "
        "constants in tuples, lists and dicts with text as keys; wrap it in a module that returns those"
    )
