"""Find the site that an operation of the captured graph is a call of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx, nn

from tbt_compile.modules.computed_weights import stored_weight
from tbt_compile.modules.products import product_name
from tbt_compile.ops.operands import operands
from tbt_compile.passes.prepare.aten import (
    EMBEDDING,
    LINEAR,
    MATMUL,
    SOFTMAX,
    aten,
    common_owner,
    is_token_lookup,
    linear_operands,
    search,
)
from tbt_compile.passes.prepare.dataflow import Dataflow
from tbt_compile.passes.prepare.find_calls import (
    call_site,
    convolution_kind,
    factors,
    fused_operands,
    is_convolution,
    is_fused_attention,
    is_lookup,
    shape_of_weight,
)
from tbt_compile.passes.prepare.number_calls import caller
from tbt_compile.passes.prepare.sites import Call, CallSite, FoundSite, SiteKind
from tbt_compile.passes.prepare.trace_attention import OPERANDS

PRODUCTS = MATMUL | {aten.baddbmm.default, aten.einsum.default}


@dataclass(frozen=True)
class SiteFinder:
    """What `site_of` needs to know beyond the node; see `find_sites.find_sites`.

    Attributes:
        flow: of the graph.
        modules: of the model, by name.
    """

    model: nn.Module
    output_projection: str | None
    calls: dict[str, tuple[str, ...] | None]
    is_layer: Callable[[nn.Module], bool]
    flow: Dataflow
    modules: dict[str, nn.Module]

    def site_of(self, node: fx.Node) -> FoundSite | None:
        """The site that a node is the call of; None if there is none."""
        if node.target in LINEAR and self._in_layer(node):
            return self._linear_layer(node)
        if node.target in EMBEDDING and self._in_layer(node):
            return _embedding_site(node, self.model)
        if node.target in SOFTMAX:
            return self._attention(node)
        if is_fused_attention(node):
            operands: dict[str, fx.Node | None] = {**fused_operands(node), "probabilities": None}
            ordered = {name: operands[name] for name in OPERANDS}
            return self._called(SiteKind.ATTENTION, Call(node, ordered, node), node)
        if is_lookup(node):
            return self._lookup(node)
        if is_convolution(node):
            return self._convolution(node)
        return self._product(node) if product_name(node.target) is not None else None

    def _in_layer(self, node: fx.Node) -> bool:
        """Whether a layer makes the call. An exported program's module lacks children without tensors."""
        name = caller(node)
        return name in self.modules and self.is_layer(self.modules[name])

    def _linear_layer(self, node: fx.Node) -> FoundSite | None:
        x, weight, _ = linear_operands(node)
        if not isinstance(x, fx.Node) or not isinstance(weight, fx.Node):
            return None
        fqn = caller(node)
        kind = SiteKind.OUTPUT_PROJECTION if fqn == self.output_projection else SiteKind.LINEAR
        site = FoundSite(kind, fqn, [Call(node, {"input": x, "weight": weight}, node)])
        if self.flow.is_active(weight):
            site.obstacle = "its weight depends on the input"
        elif stored_weight(self.model.get_submodule(fqn)) is None:
            site.readers = self.flow.readers(weight)
        return site

    def _product(self, node: fx.Node) -> FoundSite | None:
        """A product with a weight that belongs to no layer."""
        found = factors(node)
        if found is None or sum(map(self.flow.is_weight, found)) != 1:
            return None
        reverse = self.flow.is_weight(found[0])
        weight, x = found if reverse else (found[1], found[0])
        if not self.flow.is_active(x):
            return None
        shape = shape_of_weight(node, reverse)
        if shape is None:
            return FoundSite(
                SiteKind.LINEAR,
                caller(node),
                keep=f"{product_name(node.target)} multiplies other inputs by other parts of it",
                readers=self.flow.readers(weight),
            )
        call = Call(node, {"input": x, "weight": weight}, node)
        return self._called(SiteKind.LINEAR, call, node, reverse=(reverse,), weight=weight, shape=shape)

    def _convolution(self, node: fx.Node) -> FoundSite | None:
        x, weight = operands(node).input, operands(node).weight
        if not self.flow.is_weight(weight) or not self.flow.is_active(x):
            return None
        kind = convolution_kind(node)
        if isinstance(kind, str):
            readers = self.flow.readers(weight)
            return FoundSite(SiteKind.CONVOLUTION, caller(node), keep=kind, readers=readers)
        call = Call(node, {"input": x, "weight": weight}, node)
        return self._called(kind, call, node, weight=weight, shape=shape_of_weight(node, False))

    def _lookup(self, node: fx.Node) -> FoundSite | None:
        weight, ids = operands(node).weight, operands(node).indices
        if not self.flow.is_weight(weight) or not isinstance(ids, fx.Node):
            return None
        if not is_token_lookup(ids):
            readers = self.flow.readers(weight)
            return FoundSite(SiteKind.EMBEDDING, caller(node), keep=_POSITIONS, readers=readers)
        rows, columns = weight.meta["val"].shape
        call = Call(node, {"weight": weight}, node)
        return self._called(SiteKind.EMBEDDING, call, node, weight=weight, shape=(int(rows), int(columns)))

    def _called(
        self,
        kind: SiteKind,
        call: Call,
        *nodes: fx.Node,
        reverse: tuple[bool, ...] = (False,),
        weight: fx.Node | None = None,
        shape: tuple[int, int] | None = None,
    ) -> FoundSite:
        """A site that is one call of its owner, or two."""
        site = FoundSite(kind, caller(nodes[0]), [call], shape=shape)
        site.readers = {} if weight is None else self.flow.readers(weight)
        made = [
            call_site(n, self.calls, turn, tuple(site.readers))
            for n, turn in zip(nodes, reverse, strict=True)
        ]
        refused = next((each for each in made if isinstance(each, str)), None)
        if refused is None:
            site.call_sites = tuple(each for each in made if isinstance(each, CallSite))
        else:
            site.obstacle = refused
        return site

    def is_same(self, first: FoundSite, second: FoundSite) -> bool:
        """Whether two runs of one call have the same weight in the same place."""
        one, other = (site.calls[0].operands.get("weight") for site in (first, second))
        return first.call_sites == second.call_sites and self.flow.is_same(one, other)

    def _attention(self, softmax: fx.Node) -> FoundSite | None:
        """An attention that its module writes out as products and a softmax."""
        scores = search([operands(softmax).self], PRODUCTS, upwards=True)
        output = search(softmax.users, PRODUCTS, upwards=False)
        if scores is None or output is None:
            return None
        (first, second), (left, right) = factors(scores) or (None, None), factors(output) or (None, None)
        if not all(self.flow.is_active(each) for each in (first, second, left, right)):
            return None
        reverse = search([left], SOFTMAX, upwards=True) is not softmax
        probabilities, value = (right, left) if reverse else (left, right)
        named = dict(zip(OPERANDS, (first, second, probabilities, value), strict=True))
        fqn = common_owner(caller(scores), caller(output))
        call = Call(scores, named, output)
        plain = not reverse and scores.target in MATMUL and output.target in MATMUL
        if search([probabilities], SOFTMAX, upwards=True) is not softmax:
            return FoundSite(
                SiteKind.ATTENTION,
                fqn,
                [call],
                obstacle="its softmax is not an operand of the second product",
            )
        if caller(scores) != caller(output):
            if plain:
                return FoundSite(SiteKind.ATTENTION, fqn, [call], traceable=True)
            obstacle = "its two products are made by two modules; make both in one forward"
            return FoundSite(SiteKind.ATTENTION, fqn, [call], obstacle=obstacle)
        site = self._called(SiteKind.ATTENTION, call, scores, output, reverse=(False, reverse))
        site.fqn, site.traceable = fqn, plain
        if plain:  # may be traced in place of being called by number
            site.obstacle = None
        return site


_POSITIONS = "position embeddings stay fp32: their indices do not come from the input"


def _embedding_site(node: fx.Node, model: nn.Module) -> FoundSite | None:
    weight, ids = operands(node).weight, operands(node).indices
    if not isinstance(weight, fx.Node) or not isinstance(ids, fx.Node):
        return None
    fqn = caller(node)
    site = FoundSite(SiteKind.EMBEDDING, fqn, [Call(node, {"weight": weight}, node)])
    module = model.get_submodule(fqn)
    if not is_token_lookup(ids):
        site.keep = _POSITIONS
    elif module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        site.obstacle = "max_norm, scale_grad_by_freq and sparse have no quantized form; turn them off"
    return site
