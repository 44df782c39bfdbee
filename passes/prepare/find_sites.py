"""Find the sites of the captured graph: the operations whose operands can be quantized.

A site is a module of the user's model with its calls in the graph. A module that is called twice is one site
with two calls, since both share its quantizers. There are five kinds: linear layers (also addmm and 1x1
convolutions), the output projection, embedding lookups, convolutions, and attention (the products QK^T and PV
around a softmax).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from tbt_compile.modules.family import replaces_forward
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.prepare.dataflow import Dataflow
from tbt_compile.passes.prepare.find_calls import another_product, name_calls
from tbt_compile.passes.prepare.site_finder import SiteFinder
from tbt_compile.passes.prepare.sites import FoundSite, SiteKind
from tbt_compile.passes.prepare.trace_blocks import untraceable_blocks

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


def find_sites(
    graph: fx.Graph,
    model: nn.Module,
    output_projection: str | None,
    calls: dict[str, tuple[str, ...] | None],
    is_layer: Callable[[nn.Module], bool],
) -> list[FoundSite]:
    """Find every site of a graph.

    Args:
        graph: the captured ATen graph.
        model: the model it was captured from.
        output_projection: name of the module that computes the logits; None if there is none.
        calls: by module name, the product calls of its forward (see `number_calls`).
        is_layer: whether a module has a quantized form, so that its weight needs no call site.

    Returns:
        The sites in execution order.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    finder = SiteFinder(model, output_projection, calls, is_layer, Dataflow.of(graph, model), modules)
    found: dict[tuple[Any, ...], FoundSite] = {}
    for node in graph.nodes:
        site = finder.site_of(node) if node.op == "call_function" else None
        if site is None:
            continue
        numbers = tuple(call.number for call in site.call_sites)
        known = found.setdefault((site.kind, site.fqn, numbers or tuple(site.readers)), site)
        if known is not site:
            known.obstacle, known.keep = known.obstacle or site.obstacle, known.keep or site.keep
            if numbers and not finder.is_same(known, site):
                known.obstacle = known.obstacle or another_product(site)
            known.calls, known.readers = known.calls + site.calls, known.readers | site.readers
    sites = list(found.values())
    keep_overlapping(sites)
    return sites


def keep_overlapping(sites: list[FoundSite]) -> None:
    """Keep an attention in full precision if an earlier one has one of its products; in place.

    Two softmaxes over the dimensions of one score matrix attend in both directions, for example.
    """
    taken: set[fx.Node] = set()
    for site in sites:
        if site.kind is not SiteKind.ATTENTION or site.obstacle is not None:
            continue
        products = {product for call in site.calls for product in (call.node, call.output)}
        if products & taken:
            site.keep, site.call_sites = _OVERLAPS, site.call_sites[-1:]
        else:
            taken |= products


_OVERLAPS = "one of its products is quantized as a product of another attention"


@dataclass(frozen=True)
class FindSites:
    """Find the operations to quantize.

    Needs: the captured graph. Leaves: `context.sites`, in execution order; the graph is not changed.
    """

    name: str = "find-sites"

    def apply(self, context: PrepareContext) -> PassResult:
        adapter = context.adapter

        def is_layer(module: nn.Module) -> bool:
            form = adapter.quantized_form(module)
            return form is not None and not replaces_forward(type(module), form)

        context.sites = find_sites(
            context.captured.graph,
            context.model,
            adapter.output_projection(context.model),
            context.calls,
            is_layer,
        )
        blocks = [
            site.fqn
            for site in context.sites
            if site.traceable and adapter.attention_function(context.model.get_submodule(site.fqn)) is None
        ]
        name_calls(context.sites, context.captured.graph, untraceable_blocks(context, blocks))
        calls = sum(len(site.calls) for site in context.sites)
        return PassResult(len(context.sites), f"{calls} calls")
