"""Find out which attention modules have a forward that can be traced; calls of the others are intercepted."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from tbt_compile.errors import CaptureError, PlanError
from tbt_compile.modules.attention import named_inputs, split_inputs
from tbt_compile.passes.prepare.capture import evaluating
from tbt_compile.passes.prepare.trace_attention import quantize_products, trace_call

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


_CACHES = frozenset({"past_key_values", "past_key_value", "layer_past"})
"""What transformers calls the parameter of a cache."""


def untraceable_blocks(context: PrepareContext, names: Iterable[str]) -> dict[str, str]:
    """Find the attention modules whose forward cannot be traced.

    It is tried with what the example inputs give them. One that takes a cache of keys and values gets none
    there, and an object that cannot be traced when the model generates.

    Args:
        context: the model and the example inputs.
        names: of the modules.

    Returns:
        The reason, by module name.
    """
    found: dict[str, str] = {}

    def check(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        forward = type(module).forward
        if not _CACHES.isdisjoint(inspect.signature(forward).parameters):
            found[name] = "its forward takes a cache of keys and values"
            return
        try:
            tensors, constants = split_inputs(named_inputs(forward, module, args, kwargs), module)
            quantize_products(trace_call(forward, module, tensors, constants), module, "")
        except (CaptureError, PlanError) as error:
            found[name] = str(error)

    handles = []
    try:
        for name in names:
            module = context.model.get_submodule(name)
            if isinstance(module, fx.GraphModule):  # its calls are replaced in its own graph
                found[name] = "its forward is a graph"
                continue
            handles.append(module.register_forward_pre_hook(partial(check, name), with_kwargs=True))
        if handles:
            with evaluating(context.model), context.adapter.capturing(context.model):
                context.model(*context.args, **context.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found
