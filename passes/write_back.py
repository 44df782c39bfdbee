"""Write-back of the plan to the eager model, so that it stays the user's own class and trainable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from tbt_compile.errors import PlanError
from tbt_compile.modules.attention import (
    CHILD,
    QuantizedAttention,
    QuantizedBlock,
    named_inputs,
)
from tbt_compile.modules.family import quantized_class
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.capture import evaluating
from tbt_compile.passes.plan import SitePlan
from tbt_compile.passes.sites import SiteKind

if TYPE_CHECKING:
    from typing import Any

    from tbt_compile.passes.context import PrepareContext


@dataclass(frozen=True)
class WriteBack:
    """Put the quantizers into the modules of the user's model.

    Needs: plan and quantizers. Leaves: every planned module in its quantized form with the same quantizer
    objects as the graph; class family, parameter names and tied weights as before. Raises `PlanError` before
    anything is changed when a module's class cannot be converted.
    """

    name: str = "write-back"

    def apply(self, context: PrepareContext) -> PassResult:
        model, adapter = context.model, context.adapter
        cores = {
            site.fqn: attention_core(context, site)
            for site in context.planned
            if site.kind is SiteKind.ATTENTION
        }
        blocks = [fqn for fqn in cores if adapter.attention_function(model.get_submodule(fqn)) is None]
        check_blocks(context, {fqn: cores[fqn] for fqn in blocks})
        for site in context.planned:
            module = model.get_submodule(site.fqn)
            if site.kind is SiteKind.ATTENTION:
                module.add_module(CHILD, cores[site.fqn])
                if site.fqn in blocks:
                    module.__class__ = quantized_class(type(module), QuantizedBlock, outermost=True)
                continue
            quantizers = {
                f"{operand.name}_quantizer": context.quantizers[site.fqn, operand.name]
                for operand in site.operands
            }
            if not adapter.convert(module, quantizers):
                raise PlanError(
                    f"module {site.fqn!r} is a {type(module).__name__}, which has no quantized form: exclude "
                    "it in the recipe or replace it by nn.Linear"
                )
        adapter.finish(model, context.recipe)
        return PassResult(len(context.planned.sites), f"{len(cores)} attention cores")


def attention_core(context: PrepareContext, site: SitePlan) -> QuantizedAttention:
    """The core of an attention site, with the quantizers that the graph has there."""
    module = context.model.get_submodule(site.fqn)
    quantizers = {operand.name: context.quantizers[site.fqn, operand.name] for operand in site.operands}
    # transformers' attention interface takes q, k and v as [B, H, T, D].
    rank = None if context.adapter.attention_function(module) is None else 4
    return QuantizedAttention(quantizers, rank)


def check_blocks(context: PrepareContext, cores: dict[str, QuantizedAttention]) -> None:
    """Trace every plain attention block once with the inputs that it gets from the example inputs.

    Raises:
        CaptureError: the forward of a block cannot be traced.
        PlanError: its products are not where they were in the exported graph.
    """
    if not cores:
        return
    handles = []

    def check(fqn: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            forward = type(module).forward
            cores[fqn].graph_of(forward, module, named_inputs(forward, module, args, kwargs))

        return hook

    try:
        for fqn in cores:
            module = context.model.get_submodule(fqn)
            handles.append(module.register_forward_pre_hook(check(fqn), with_kwargs=True))
        with evaluating(context.model), torch.no_grad():
            context.model(*context.args, **context.kwargs)
    finally:
        for handle in handles:
            handle.remove()
