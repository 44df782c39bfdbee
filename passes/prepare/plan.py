"""The quantization plan: an encoding and a reason for each operand, and what stays in full precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from tbt_compile.encoding import Encoding
from tbt_compile.errors import PlanError
from tbt_compile.modules.computed_weights import stored_weight
from tbt_compile.modules.interception import split_call
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.check_autocast import ADVICE, AUTOCAST
from tbt_compile.passes.prepare.classify import Decision
from tbt_compile.passes.prepare.dataflow import Dataflow
from tbt_compile.passes.prepare.site_plan import (
    Operand,
    SitePlan,
    activation_operand,
    excluded_by,
    excluded_site,
)
from tbt_compile.passes.prepare.sites import FoundSite, SiteKind, caller_of
from tbt_compile.passes.prepare.unmatched_encodings import unmatched_encodings
from tbt_compile.passes.prepare.unquantized import Unquantized, remaining_parameters
from tbt_compile.recipe import Recipe

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


_EXCLUDED = "excluded by the recipe"


@dataclass(frozen=True)
class QuantPlan:
    """What `prepare` does to a model; `print` shows it as a table, `to_dict` returns JSON values.

    Attributes:
        model: class name.
        recipe: the requested bits and the excluded modules.
        sites: what is quantized.
        unquantized: what stays in full precision, with reasons.
        refused: why `lower` will refuse the model, one sentence each; empty if nothing is known.
    """

    model: str
    recipe: Recipe
    sites: tuple[SitePlan, ...]
    unquantized: tuple[Unquantized, ...]
    refused: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[SitePlan]:
        return iter(self.sites)

    def __getitem__(self, fqn: str) -> SitePlan:
        """The site of a module or call; KeyError if there is none."""
        for site in self.sites:
            if fqn in (site.fqn, site.name):
                return site
        raise KeyError(fqn)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The patterns of `exclude` and `split` in the recipe that match nothing."""
        kept = [item.name for item in self.unquantized]
        reasons = {item.reason for item in self.unquantized}
        return tuple(
            pattern
            for pattern in (*self.recipe.exclude, *self.recipe.split)
            if f"{_EXCLUDED} ({pattern!r})" not in reasons
            and not any(excluded_site(site, (pattern,)) for site in self.sites)
            and not any(excluded_by(name, (pattern,)) for name in kept)
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values."""
        return {
            "model": self.model,
            "recipe": self.recipe.to_dict(),
            "sites": [site.to_dict() for site in self.sites],
            "unquantized": [{"name": item.name, "reason": item.reason} for item in self.unquantized],
            "refused": list(self.refused),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuantPlan:
        """The inverse of `to_dict`."""
        sites = tuple(map(SitePlan.from_dict, values["sites"]))
        unquantized = tuple(Unquantized(**item) for item in values["unquantized"])
        recipe, refused = Recipe.from_dict(values["recipe"]), tuple(values["refused"])
        return cls(values["model"], recipe, sites, unquantized, refused)

    def __str__(self) -> str:
        from tbt_compile.passes.prepare.plan_table import plan_text

        return plan_text(self)

    def _repr_html_(self) -> str:
        from tbt_compile.passes.prepare.plan_table import plan_html

        return plan_html(self)


_CONVOLUTION = "convolutions stay fp32; conv=True in the recipe quantizes them"


def make_plan(
    model: nn.Module,
    recipe: Recipe,
    sites: list[FoundSite],
    signs: dict[str, Decision],
    readers: Mapping[str, list[str]],
) -> QuantPlan:
    """Decide what to quantize, and to which encodings.

    Args:
        model: the model in full precision.
        recipe: the requested bits and the excluded modules.
        sites: the sites of the captured graph.
        signs: the sign decision of every node, by node name.
        readers: by parameter name, the operators that read it together with an input.

    Returns:
        The plan; every parameter of the model is quantized by it or listed in `unquantized`.

    Raises:
        PlanError: there is nothing to quantize, or a module cannot be quantized and is not excluded.
    """
    planned, unquantized, obstacles = [], [], {}
    owners = _embedding_owners(model, sites, recipe.exclude)
    for site in sites:
        pattern = excluded_site(site, recipe.exclude)
        if pattern is not None:
            reason, owner = f"{_EXCLUDED} ({pattern!r})", caller_of(site.fqn)
            whole = excluded_by(owner, recipe.exclude) is not None
            unquantized += [Unquantized(owner, reason)] if whole else _kept(site, reason)
        elif site.kind is SiteKind.CONVOLUTION and site.keep is None and not recipe.conv:
            unquantized += _kept(site, _CONVOLUTION)
        elif site.keep is not None:
            unquantized += _kept(site, site.keep)
        elif (obstacle := site.obstacle or _softmax_that_stays(site, recipe)) is not None:
            obstacles[site.name] = obstacle
        else:
            planned.append(_plan_site(site, recipe, signs, owners, model))
    if obstacles:
        fqn, reason = next(iter(obstacles.items()))
        others = f"; the same goes for {', '.join(list(obstacles)[1:])}" if len(obstacles) > 1 else ""
        where = f"module {fqn!r} of {type(model).__name__}" if fqn else type(model).__name__
        raise PlanError(
            f"{where} cannot be quantized: {reason}, or leave it in full precision with exclude=({fqn!r},) "
            f"in the recipe{others}"
        )
    if not planned and any(AUTOCAST in operators for operators in readers.values()):
        raise PlanError(
            f"{type(model).__name__} has nothing to quantize outside torch.autocast, which its forward turns "
            f"on: {ADVICE}"
        )
    if not planned:
        found = (
            f"all {len(unquantized)} candidates are excluded or kept" if unquantized else "its graph has none"
        )
        raise PlanError(
            f"{type(model).__name__} has nothing to quantize: expected nn.Linear or nn.Embedding modules, an "
            "attention of matmul, softmax, matmul, or convolutions and conv=True in the recipe, but "
            f"{found}"
        )
    unquantized = list(dict.fromkeys(unquantized))
    planned += _aliases(model, recipe, planned, owners)
    planned = _with_frees(planned, sites)
    packed = [name for site in planned for call in site.calls for name in call.parameters]
    layers = {site.fqn for site in planned if not site.is_call and site.quantizes_weight}
    packed += [name for site in sites if site.fqn in layers for name in site.readers]
    unquantized += remaining_parameters(
        model,
        [(site.fqn, site.operands) for site in planned if not site.is_call],
        unquantized,
        packed,
        readers,
    )
    return QuantPlan(type(model).__name__, recipe, tuple(planned), tuple(unquantized))


def _with_frees(planned: list[SitePlan], sites: list[FoundSite]) -> list[SitePlan]:
    """Note at every call which of its parameters only planned calls read."""
    names = {site.fqn for site in planned if site.is_call}
    found = {site.fqn: site for site in sites if site.fqn in names}
    covered = {call.node.name for site in found.values() for call in site.calls}

    def freed(site: SitePlan) -> SitePlan:
        if site.fqn not in found:
            return site
        frees = tuple(name for name, nodes in found[site.fqn].readers.items() if nodes <= covered)
        return replace(site, calls=tuple(replace(call, frees=frees) for call in site.calls))

    return [freed(site) for site in planned]


def _softmax_that_stays(site: FoundSite, recipe: Recipe) -> str | None:
    """Why Bi-Attention cannot be had of an attention whose products are intercepted one by one, or None."""
    if recipe.attention != "bool" or site.kind is not SiteKind.ATTENTION or len(site.call_sites) < 2:
        return None
    if split_call(site.fqn) is None:
        return None
    return "attention='bool' leaves out its softmax, but the module itself calls it; use attention='softmax'"


def _kept(site: FoundSite, reason: str) -> list[Unquantized]:
    """What stays in full precision of a site: its module, or the parameters that a call reads."""
    return [Unquantized(name, reason) for name in site.readers or (site.fqn,)]


def _embedding_owners(model: nn.Module, sites: list[FoundSite], exclude: tuple[str, ...]) -> dict[int, str]:
    """The first quantized embedding module of every embedding weight, by `id` of the parameter."""
    owners: dict[int, str] = {}
    for site in sites:
        usable = site.keep is None and site.obstacle is None and excluded_site(site, exclude) is None
        weight = weight_of(site, model) if site.kind is SiteKind.EMBEDDING and usable else None
        if weight is not None:
            owners.setdefault(id(weight), site.fqn)
    return owners


def _aliases(
    model: nn.Module, recipe: Recipe, planned: list[SitePlan], owners: dict[int, str]
) -> list[SitePlan]:
    """Plans for embedding modules that the graph never calls but whose weight aliases a planned one.

    BART keeps its embedding as `model.shared` and calls modules tied to it. Lookups through the original must
    return the same values.
    """
    sites = {site.fqn: site for site in planned}
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or name in sites or excluded_by(name, recipe.exclude):
            continue
        owner = owners.get(id(stored_weight(module)))
        if owner is not None:
            weight = replace(sites[owner].operand("weight"), reason=f"tied to {owner}")
            found.append(SitePlan(SiteKind.EMBEDDING, name, (weight,), owner))
    return found


def _plan_site(
    site: FoundSite, recipe: Recipe, signs: dict[str, Decision], owners: dict[int, str], model: nn.Module
) -> SitePlan:
    if site.kind is SiteKind.ATTENTION:
        bits = recipe.activation_bits
        operands = [activation_operand(site, name, bits, signs) for name in site.calls[0].operands]
        return SitePlan(site.kind, site.fqn, tuple(operands), calls=site.call_sites)
    owner = owners.get(id(weight_of(site, model)))
    tied_to = None if owner == site.fqn else owner
    if owner is not None:
        weight_bits, why = recipe.embedding_bits, "embedding" if tied_to is None else f"tied to {tied_to}"
    else:
        weight_bits, why = recipe.weight_bits, "weight, one scale per row"
    weight = Operand("weight", Encoding.for_weight(weight_bits), why)
    if site.kind is SiteKind.EMBEDDING:
        return SitePlan(site.kind, site.fqn, (weight,), tied_to, site.call_sites, site.shape)
    bits = recipe.activation_bits
    if site.kind is SiteKind.OUTPUT_PROJECTION and bits != 32:
        bits = 32 if weight_bits == 32 else recipe.output_projection_activation_bits
    both = (activation_operand(site, "input", bits, signs), weight)
    return SitePlan(site.kind, site.fqn, both, tied_to, site.call_sites, site.shape)


def weight_of(site: FoundSite, model: nn.Module) -> Any:
    """The parameter that the weight of a site is; None if it is computed from several."""
    if site.call_sites:
        return model.get_parameter(next(iter(site.readers))) if len(site.readers) == 1 else None
    return stored_weight(model.get_submodule(site.fqn))


@dataclass(frozen=True)
class MakePlan:
    """Choose the encodings of every site.

    Needs: sites and signs. Leaves: `context.plan`; the graph is not changed. Raises `PlanError` for a model
    with nothing to quantize or with a module that cannot be quantized.
    """

    name: str = "make-plan"

    def apply(self, context: PrepareContext) -> PassResult:
        readers = Dataflow.of(context.captured.graph, context.model).operators()
        context.plan = make_plan(context.model, context.recipe, context.sites, context.signs, readers)
        return PassResult(len(context.plan.sites), f"{len(context.plan.unquantized)} kept in full precision")


@dataclass(frozen=True)
class CheckLowering:
    """Ask what `lower` will refuse, while the model is still in full precision.

    Needs: the captured graph and the plan. Leaves: `context.plan` with `refused`, one sentence each; the
    graph is not changed.
    """

    name: str = "check-lowering"

    def apply(self, context: PrepareContext) -> PassResult:
        refused = unmatched_encodings(context.planned) + context.adapter.refusals(context)
        context.plan = replace(context.planned, refused=tuple(refused))
        return PassResult(len(refused), "reasons why lower will refuse the model" if refused else "")
