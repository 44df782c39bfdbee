"""Insert quantizers into the captured graph: the reference that the quantized eager model must match."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from tbt_compile.encoding import Encoding
from tbt_compile.errors import PlanError
from tbt_compile.modules.calls import (
    QuantizedCall,
    QuantizedEmbeddingCall,
    QuantizedProductCall,
    QuantizedSdpaCall,
    QuantizedWeightCall,
)
from tbt_compile.modules.products import product_name
from tbt_compile.ops.operands import operands, set_operand
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.prepare.aten import SOFTMAX, aten, linear_operands, product_operands, search
from tbt_compile.passes.prepare.site_plan import Operand, SitePlan, excluded_site
from tbt_compile.passes.prepare.sites import Call, CallSite, SiteKind
from tbt_compile.passes.prepare.trace_attention import OPERANDS, replace_product, untranspose
from tbt_compile.quantizers import ActivationQuantizer, quantized_embedding, quantized_linear
from tbt_compile.quantizers.choose import weight_quantizer
from tbt_compile.quantizers.dead_zone import dead_zone_bias
from tbt_compile.quantizers.hadamard import RotatedActivationQuantizer
from tbt_compile.quantizers.weights import StatefulWeightQuantizer
from tbt_compile.recipe import Recipe

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext

# The submodule of the graph that holds the quantizers: their names cannot collide with the model's. The
# functions below take the prefix of one site: `<prefix>weight` is the quantizer of its weight. They read the
# operands from the nodes, not from the sites: an earlier replacement may have changed them.
HOLDER = "quantizers"


def build_activation_quantizer(operand: Operand, recipe: Recipe) -> ActivationQuantizer:
    """Build the quantizer of an activation with the options of the recipe.

    Args:
        operand: the activation.
        recipe: the options.

    Returns:
        The quantizer.
    """
    options: dict[str, Any] = {
        "center": recipe.center_activations,
        "method": recipe.activation_method,
        "initial_scale": recipe.initial_scale,
        "ste": recipe.activation_ste,
        # A masked position has the probability 0, whose code has to be 0.
        "offset": recipe.activation_offset and operand.name != "probabilities",
    }
    if operand.hadamard:
        quantizer: ActivationQuantizer = RotatedActivationQuantizer(
            operand.encoding, operand.hadamard, **options
        )
    else:
        quantizer = ActivationQuantizer(operand.encoding, **options)
    quantizer.reason = operand.reason
    return quantizer


def build_weight_quantizer(encoding: Encoding, context: PrepareContext, site: SitePlan) -> nn.Module:
    """Build the quantizer of a weight with the options of the recipe.

    Args:
        encoding: encoding of the weight.
        context: the model, its adapter and the recipe.
        site: the layer or call that has the weight.

    Returns:
        The quantizer, for a weight with one row per output.

    Raises:
        PlanError: the recipe has a dead zone, and a call no bias.
    """
    if site.shape is None:
        module = context.model.get_submodule(site.fqn)
        form: Any = context.adapter.quantized_form(module)
        # `weight_rows` has one row per output in every form.
        weight: Any = module.weight if form is None else form.weight_rows.fget(module)
        rows, columns = weight.shape
    else:
        rows, columns = site.shape
    split = excluded_site(site, context.recipe.split) is not None
    quantizer = weight_quantizer(context.recipe, encoding, rows, columns, split)
    if context.recipe.dead_zone and encoding is Encoding.TERNARY and site.kind is not SiteKind.EMBEDDING:
        if site.is_call:
            raise PlanError(
                f"recipe field dead_zone={context.recipe.dead_zone}: {site.fqn} is a call of a function, "
                "which has no bias to add the dead weights to; leave the field out, or exclude the module"
            )
        quantizer.dead_zone = context.recipe.dead_zone
    return quantizer


def build_quantizers(context: PrepareContext) -> dict[tuple[str, str], nn.Module]:
    """Build all quantizers of the plan, by (module name, operand name)."""
    quantizers: dict[tuple[str, str], nn.Module] = {}
    for site in context.planned:
        for operand in site.operands:
            quantizers[site.fqn, operand.name] = (
                build_weight_quantizer(operand.encoding, context, site)
                if operand.is_weight
                else build_activation_quantizer(operand, context.recipe)
            )
    for site in context.planned:
        follower = quantizers.get((site.fqn, "weight"))
        if site.tied_to is not None and isinstance(follower, StatefulWeightQuantizer):
            leader = quantizers[site.tied_to, "weight"]
            assert isinstance(leader, StatefulWeightQuantizer)
            follower.follow(leader)
    return quantizers


def insert_linear(graph: fx.Graph, call: Call, prefix: str) -> None:
    """Replace `linear(x, w, b)`, or `addmm(b, x, w.T)`, by `quantized_linear` on quantized operands.

    Args:
        graph: the captured graph.
        call: a call in `LINEAR`.
        prefix: of the site's quantizers, see `HOLDER`.
    """
    node = call.node
    x, weight, bias = linear_operands(node)
    with graph.inserting_before(node):
        if node.target is aten.addmm.default:
            weight = graph.call_function(aten.t.default, (weight,))
        x = graph.call_module(f"{prefix}input", (x,))
        latent, weight = weight, graph.call_module(f"{prefix}weight", (weight,))
        owner: Any = graph.owning_module
        share = owner.get_submodule(f"{prefix}weight").dead_zone
        if share:
            bias = graph.call_function(dead_zone_bias, (bias, latent, weight, share))
        output = graph.call_function(quantized_linear, (x, weight, bias))
    _replace(graph, node, output)


def insert_embedding(graph: fx.Graph, call: Call, prefix: str) -> None:
    """Replace `embedding(w, ids, padding_idx)` by `quantized_embedding` on the quantized weight.

    Args:
        graph: the captured graph.
        call: a call in `EMBEDDING`.
        prefix: of the site's quantizers, see `HOLDER`.
    """
    lookup = operands(call.node)
    padding = None if lookup.padding_idx == -1 else lookup.padding_idx
    with graph.inserting_before(call.node):
        weight = graph.call_module(f"{prefix}weight", (lookup.weight,))
        output = graph.call_function(quantized_embedding, (lookup.indices, weight, padding))
    _replace(graph, call.node, output)


def insert_attention(graph: fx.Graph, call: Call, prefix: str, without_softmax: bool = False) -> None:
    """Replace both products of an attention by `quantized_matmul` on quantized operands.

    Args:
        graph: the captured graph.
        call: the products QK^T and PV.
        prefix: of the site's quantizers, see `HOLDER`.
        without_softmax: whether PV takes the masked scores instead of their softmax.
    """
    scores, output = call.node, call.output
    if without_softmax:
        softmax = search([operands(output).self], SOFTMAX, upwards=True)
        assert softmax is not None, "an attention site has a softmax between its products"
        set_operand(output, "self", operands(softmax).self)
    query, key = product_operands(scores)
    assert isinstance(key, fx.Node), "an operand of a product is a tensor"
    features_last = untranspose(graph, scores, key, key.meta["val"].dim())
    replace_product(graph, scores, query, features_last, prefix, OPERANDS[:2])
    probabilities, value = product_operands(output)
    replace_product(graph, output, probabilities, value, prefix, OPERANDS[2:])


def insert_calls(
    module: fx.GraphModule, call: Call, site: SitePlan, context: PrepareContext, prefix: str
) -> None:
    """Replace the products of a call site by quantized calls that share the quantizers of the model's own.

    Args:
        module: the captured graph.
        call: the products.
        site: the plan of the site.
        context: holds the quantizers.
        prefix: of the site's modules, see `HOLDER`.
    """
    nodes = [call.node] if len(site.calls) == 1 else [call.node, call.output]
    for node, made in zip(nodes, site.calls, strict=True):
        name = product_name(node.target)
        assert name is not None
        target = f"{prefix}call_{made.number}"
        module.add_submodule(target, quantized_call(site, replace(made, function=name), context))
        with module.graph.inserting_before(node):
            output = module.graph.call_module(target, node.args, dict(node.kwargs))
        _replace(module.graph, node, output)


def quantized_call(site: SitePlan, made: CallSite, context: PrepareContext) -> QuantizedCall:
    """The module that takes the place of a call.

    Args:
        site: the plan of the site.
        made: one of its calls.
        context: holds the quantizers and the recipe.

    Returns:
        A module that takes the arguments of the call.
    """
    of_site = {operand.name: context.quantizers[site.fqn, operand.name] for operand in site.operands}
    if site.kind is not SiteKind.ATTENTION:
        kind = QuantizedEmbeddingCall if site.kind is SiteKind.EMBEDDING else QuantizedWeightCall
        children = {f"{name}_quantizer": quantizer for name, quantizer in of_site.items()}
        return kind(made.function, children, made.reverse, made.parameters, made.frees)
    if len(site.calls) == 1:
        return QuantizedSdpaCall(made.function, of_site, context.recipe.attention == "bool")
    names = OPERANDS[:2] if made.number == site.calls[0].number else OPERANDS[2:]
    return QuantizedProductCall(made.function, {name: of_site[name] for name in names}, made.reverse)


def _replace(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    graph.erase_node(old)


_INSERT = {
    SiteKind.LINEAR: insert_linear,
    SiteKind.OUTPUT_PROJECTION: insert_linear,
    SiteKind.EMBEDDING: insert_embedding,
}


@dataclass(frozen=True)
class InsertQuantizers:
    """Rewrite the captured graph to its quantized form.

    Needs: graph, sites and plan. Leaves: `context.quantizers`; in the graph a `call_module` of a quantizer on
    every planned operand, and quantized operations on the results. The model is unchanged.
    """

    name: str = "insert-quantizers"

    def apply(self, context: PrepareContext) -> PassResult:
        module = context.captured
        context.quantizers = build_quantizers(context)
        module.add_submodule(HOLDER, nn.Module())
        found = {(site.kind, site.fqn): site for site in context.sites}
        for number, planned in enumerate(context.planned):
            prefix = f"{HOLDER}.{number}_{planned.fqn.replace('.', '_')}."
            for operand in planned.operands:
                module.add_submodule(prefix + operand.name, context.quantizers[planned.fqn, operand.name])
            site = found.get((planned.kind, planned.fqn))
            for call in site.calls if site is not None else ():
                if planned.is_call and planned.kind is not SiteKind.EMBEDDING:
                    insert_calls(module, call, planned, context, prefix)
                elif planned.kind is SiteKind.ATTENTION:
                    insert_attention(module.graph, call, prefix, context.recipe.attention == "bool")
                else:
                    _INSERT[planned.kind](module.graph, call, prefix)
        module.graph.eliminate_dead_code()
        return PassResult(len(context.quantizers), "quantizers inserted")
