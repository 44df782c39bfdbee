"""The state of the prepare pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from tbt_compile.passes.prepare.classify import Decision
from tbt_compile.passes.prepare.plan import QuantPlan
from tbt_compile.passes.prepare.sites import FoundSite
from tbt_compile.recipe import Recipe

if TYPE_CHECKING:
    from tbt_compile.adapters.base import Adapter


@dataclass
class PrepareContext:
    """A model being quantized.

    Attributes:
        model: the user's model; only the last pass changes it.
        recipe: the requested bits and methods.
        adapter: knowledge about the model's family that its graph lacks.
        args, kwargs: the example inputs, as the model's `forward` takes them.
        graph: the exported ATen graph, set by the capture pass and rewritten by the insertion pass.
        calls: by module name, the product calls of its forward in order; None if they change.
        signs: the sign decision of every node, by node name.
        sites: the operations that can be quantized, by module.
        plan: what will be quantized, and why.
        to_rotate: the linear layers whose weights have to be rotated or rotated back, with the sizes of the
            blocks.
        quantizers: the quantizer modules by (module name, operand name), shared by the graph and the eager
            model.
    """

    model: nn.Module
    recipe: Recipe
    adapter: Adapter
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    graph: fx.GraphModule | None = None
    calls: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    signs: dict[str, Decision] = field(default_factory=dict)
    sites: list[FoundSite] = field(default_factory=list)
    plan: QuantPlan | None = None
    to_rotate: dict[str, int] = field(default_factory=dict)
    quantizers: dict[tuple[str, str], nn.Module] = field(default_factory=dict)

    def graphs(self) -> Mapping[str, fx.GraphModule]:
        """The captured graph; empty before the capture pass."""
        return {} if self.graph is None else {"graph": self.graph}

    def describe(self) -> str:
        """The recipe, then the plan or, before the plan exists, the signs and sites."""
        parts = [f"model: {type(self.model).__name__}", f"recipe: {self.recipe!r}"]
        if self.signs and self.plan is None:
            parts += [f"{name}: {decision}" for name, decision in self.signs.items()]
        if self.sites and self.plan is None:
            parts += [str(site) for site in self.sites]
        if self.plan is not None:
            parts.append(str(self.plan))
        return "\n".join(parts)

    @property
    def captured(self) -> fx.GraphModule:
        """The captured graph, which exists after the capture pass."""
        assert self.graph is not None, "the capture pass has to run first"
        return self.graph

    @property
    def planned(self) -> QuantPlan:
        """The plan, which exists after the plan pass."""
        assert self.plan is not None, "the plan pass has to run first"
        return self.plan
