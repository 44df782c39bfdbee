"""Rotate the inputs and weights of linear layers by blocks of a Hadamard matrix, as the recipe asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tbt_compile.encoding import Encoding
from tbt_compile.errors import PlanError
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.prepare.classify import Decision, classify_graph
from tbt_compile.passes.prepare.rotated_weights import check_own_weight, rotate_weights, rotated_layers
from tbt_compile.passes.prepare.site_plan import SitePlan, activation_operand
from tbt_compile.passes.prepare.sites import SiteKind

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext

_LAYERS = (SiteKind.LINEAR, SiteKind.OUTPUT_PROJECTION)


def rotated_site(context: PrepareContext, name: str, block: int, signs: dict[str, Decision]) -> SitePlan:
    """The plan of a layer with a rotated input, which is signed whatever the input was.

    Args:
        context: with a plan without rotations.
        name: of the layer.
        block: features that are rotated together.
        signs: the sign decision of every node by data flow alone, by node name.

    Returns:
        The new plan of the site.

    Raises:
        PlanError: the layer or its input stays in full precision, or the layer is a function call.
    """
    where, plan = f"the recipe's hadamard names {name!r}", context.planned
    site = next((site for site in plan if site.fqn == name and site.kind in _LAYERS), None)
    if site is None:
        kept = {item.name: item.reason for item in plan.unquantized}
        reason = kept.get(name) or kept.get(f"{name}.weight") or "only a function call reads its weight"
        raise PlanError(f"{where}, which is not quantized as a layer ({reason}): narrow the pattern")
    weight, bits = site.operand("weight"), site.operand("input").encoding.bits
    if 32 in (bits, weight.encoding.bits):
        raise PlanError(f"{where}, whose input or weight stays in full precision: narrow the pattern")
    found = next(each for each in context.sites if each.fqn == name and each.kind is site.kind)
    x = activation_operand(found, "input", bits, signs)
    encoding = Encoding.for_activation(bits, signed=True)
    reason = f"signed: Hadamard blocks of {block} mix signs ({x.reason})"
    return replace(site, operands=(replace(x, encoding=encoding, reason=reason, hadamard=block), weight))


@dataclass(frozen=True)
class PlanRotations:
    """Note the rotation of every input that the recipe's `hadamard` names.

    Needs: the plan. Leaves: in the plan, rotated inputs with signed encodings; the model and its graph are
    not changed. Raises `PlanError` for a pattern that matches no linear layer, and for a layer that cannot be
    rotated.
    """

    name: str = "plan-rotations"

    def apply(self, context: PrepareContext) -> PassResult:
        blocks = rotated_layers(context.model, context.adapter, context.recipe)
        for name in blocks:
            check_own_weight(context.model, name)
        if not blocks:
            return PassResult(0)
        # By the data flow alone: a rotation clips nothing, whatever the recipe says of GELU.
        signs = classify_graph(context.captured.graph)
        sites = {name: rotated_site(context, name, block, signs) for name, block in blocks.items()}
        planned = tuple(sites.get(site.fqn, site) for site in context.planned)
        context.plan = replace(context.planned, sites=planned)
        return PassResult(len(blocks), "inputs are rotated")


@dataclass(frozen=True)
class FindRotated:
    """Find the weights that are not yet what the recipe makes of them.

    A model that was saved with a recipe has weights that are rotated as that one says.

    Needs: the plan. Leaves: `context.to_rotate`. Raises `PlanError` for weights of which it is not known
    whether they are rotated.
    """

    name: str = "find-rotated"

    def apply(self, context: PrepareContext) -> PassResult:
        model, adapter = context.model, context.adapter
        saved_with = adapter.stored_recipe(model)
        before = rotated_layers(model, adapter, saved_with) if saved_with else {}
        if before and not adapter.has_saved_weights(model, before):
            raise PlanError(
                f"the config of this {type(model).__name__} names a recipe that rotates weights, but its "
                "weights are not those of the folder that it names: load it by from_pretrained, or set "
                "config.quantization_config to None if they are not rotated"
            )
        after = rotated_layers(model, adapter, context.recipe)
        blocks = {**before, **after}
        context.to_rotate = {name: blocks[name] for name in blocks if (name in before) != (name in after)}
        return PassResult(len(context.to_rotate), "weights to rotate" if context.to_rotate else "")


@dataclass(frozen=True)
class RotateWeights:
    """Rotate the weights of the layers in `context.to_rotate`, once.

    Needs: the quantizers in the model, so that nothing can fail any more. Leaves: weights that, multiplied by
    rotated inputs, give what the layer gave before. The captured graph reads the same parameters.
    """

    name: str = "rotate-weights"

    def apply(self, context: PrepareContext) -> PassResult:
        rotate_weights(context.model, context.adapter, context.to_rotate)
        return PassResult(len(context.to_rotate), "weights rotated" if context.to_rotate else "")
