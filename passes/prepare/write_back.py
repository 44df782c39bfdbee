"""Write the plan back to the eager model, which stays trainable and an instance of the user's class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from tbt_compile.errors import PlanError
from tbt_compile.modules.attention import (
    CHILD,
    QuantizedAttention,
    QuantizedBlock,
)
from tbt_compile.modules.family import check_convertible, convert, quantized_class
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.prepare.site_plan import SitePlan
from tbt_compile.passes.prepare.sites import SiteKind
from tbt_compile.passes.prepare.write_calls import write_calls

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


@dataclass(frozen=True)
class WriteBack:
    """Put the quantizers into the modules of the user's model.

    Needs: plan and quantizers. Leaves: every planned module
    in its quantized form with the same quantizer objects as the graph; class family, parameter names and
    tied weights as before. Raises `PlanError` for a module that cannot be converted, before
    anything is changed.
    """

    name: str = "write-back"

    def apply(self, context: PrepareContext) -> PassResult:
        calls = [site for site in context.planned if site.is_call]
        layers = [site for site in context.planned if not site.is_call]
        attention = [site for site in layers if site.kind is SiteKind.ATTENTION]
        others = [site for site in layers if site.kind is not SiteKind.ATTENTION]
        forms = [checked_form(context, site) for site in others]
        cores = {site.fqn: attention_core(context, site) for site in attention}
        blocks = {fqn: core for fqn, core in cores.items() if _is_block(context, fqn)}
        for site, form in zip(others, forms, strict=True):
            convert(context.model.get_submodule(site.fqn), form, children(context, site))
        for fqn, core in cores.items():
            module = context.model.get_submodule(fqn)
            module.add_module(CHILD, core)
            if fqn in blocks:
                module.__class__ = quantized_class(type(module), QuantizedBlock, outermost=True)
        write_calls(context, calls)
        context.adapter.finish(context.model, context.recipe)
        return PassResult(len(context.planned.sites), f"{len(cores)} attention cores")


def children(context: PrepareContext, site: SitePlan) -> dict[str, nn.Module]:
    """The quantizers of a linear or embedding site, by their attribute names in its module."""
    return {
        f"{operand.name}_quantizer": context.quantizers[site.fqn, operand.name] for operand in site.operands
    }


def checked_form(context: PrepareContext, site: SitePlan) -> type[nn.Module]:
    """The class that the module of a linear or embedding site is converted to.

    Raises:
        PlanError: there is none, or the conversion would have no effect.
    """
    module = context.model.get_submodule(site.fqn)
    form = context.adapter.quantized_form(module)
    if form is None:
        raise PlanError(
            f"module {site.fqn!r} is a {type(module).__name__}, which has no quantized form: exclude it in "
            "the recipe or replace it by nn.Linear"
        )
    check_convertible(module, form, children(context, site))
    return form


def _is_block(context: PrepareContext, fqn: str) -> bool:
    """Whether an attention site computes in its `forward` instead of a replaceable attention function."""
    return context.adapter.attention_function(context.model.get_submodule(fqn)) is None


def attention_core(context: PrepareContext, site: SitePlan) -> QuantizedAttention:
    """The quantized core of an attention site; it shares its quantizers with the graph."""
    quantizers = {operand.name: context.quantizers[site.fqn, operand.name] for operand in site.operands}
    # transformers' attention interface takes q, k and v as [B, H, T, D].
    rank = None if _is_block(context, site.fqn) else 4
    return QuantizedAttention(quantizers, rank, context.recipe.attention == "bool")
