"""Find the sites of the captured graph: the operations whose operands can be quantized.

A site is a module of the user's model with its calls in the graph. A module that is called twice is one site
with two calls, since both share its quantizers. There are four kinds: linear layers (also addmm), the output
projection, embedding lookups, and attention (the products QK^T and PV around a softmax).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from torch import fx, nn

from tbt_compile.ops.operands import operands
from tbt_compile.passes.base import PassResult
from tbt_compile.passes.prepare.aten import (
    BETWEEN_PRODUCTS,
    EMBEDDING,
    LINEAR,
    MATMUL,
    SOFTMAX,
    VIEW,
    aten,
    common_owner,
    linear_operands,
    owner,
    product_operands,
    viewed,
)

if TYPE_CHECKING:
    from tbt_compile.passes.prepare.context import PrepareContext


class SiteKind(Enum):
    """What a site computes."""

    LINEAR = "linear"
    OUTPUT_PROJECTION = "output_projection"
    EMBEDDING = "embedding"
    ATTENTION = "attention"


@dataclass(frozen=True)
class Call:
    """One call of a site in the graph.

    Attributes:
        node: the operation; for attention the product QK^T.
        operands: the quantizable operands by name: "input" and "weight" of a linear layer, "weight" of an
            embedding, or "query", "key", "probabilities" and "value". The key is the right operand of QK^T,
            [.., D, T].
        output: the product PV for attention; `node` for the other kinds.
    """

    node: fx.Node
    operands: dict[str, fx.Node]
    output: fx.Node


@dataclass
class FoundSite:
    """A module with quantizable operands.

    Attributes:
        obstacle: why it cannot be quantized, or None. The plan rejects the model unless the recipe excludes
            the module.
        keep: why it stays in full precision by design, or None.
    """

    kind: SiteKind
    fqn: str
    calls: list[Call] = field(default_factory=list)
    obstacle: str | None = None
    keep: str | None = None

    def __str__(self) -> str:
        calls = ", ".join(call.node.name for call in self.calls)
        note = self.obstacle or self.keep
        return f"{self.kind.value} {self.fqn or '(model)'}: {calls}" + (f" [{note}]" if note else "")


def find_sites(graph: fx.Graph, model: nn.Module, output_projection: str | None = None) -> list[FoundSite]:
    """Find every site of a graph.

    Args:
        graph: the captured ATen graph.
        model: the model it was captured from.
        output_projection: name of the module that computes the logits; None if there is none.

    Returns:
        The sites in execution order.
    """
    found: dict[tuple[SiteKind, str], FoundSite] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        site = None
        if node.target in LINEAR:
            site = _linear_site(node, model, output_projection)
        elif node.target in EMBEDDING:
            site = _embedding_site(node, model)
        elif node.target in SOFTMAX:
            site = _attention_site(node)
        elif node.target in _OPAQUE_ATTENTION:
            site = FoundSite(SiteKind.ATTENTION, owner(node), obstacle=_OPAQUE_ATTENTION[node.target])
        if site is None:
            continue
        if isinstance(model.get_submodule(site.fqn), nn.MultiheadAttention):
            site.obstacle = _MULTIHEAD
        known = found.setdefault((site.kind, site.fqn), site)
        if known is not site:
            known.calls += site.calls
            known.obstacle, known.keep = known.obstacle or site.obstacle, known.keep or site.keep
    return list(found.values())


_MULTIHEAD = (
    "nn.MultiheadAttention hides its projections, softmax and products; "
    "use an attention block with separate nn.Linear layers, matmul and softmax"
)
_OPAQUE_ATTENTION = {
    aten._native_multi_head_attention.default: _MULTIHEAD,
    aten.scaled_dot_product_attention.default: (
        "it calls scaled_dot_product_attention, which hides the softmax and both products; "
        "write the attention as matmul, softmax, matmul"
    ),
}


def _linear_site(node: fx.Node, model: nn.Module, output_projection: str | None) -> FoundSite | None:
    x, weight, _ = linear_operands(node)
    if not isinstance(x, fx.Node) or not isinstance(weight, fx.Node):
        return None
    fqn = owner(node)
    kind = SiteKind.OUTPUT_PROJECTION if fqn == output_projection else SiteKind.LINEAR
    site = FoundSite(kind, fqn, [Call(node, {"input": x, "weight": weight}, node)])
    module = model.get_submodule(fqn)
    if weight.op != "get_attr" or not isinstance(getattr(module, "weight", None), nn.Parameter):
        site.obstacle = (
            "it calls a linear function on a tensor that is not the weight of an nn.Linear; use nn.Linear"
        )
    return site


def _embedding_site(node: fx.Node, model: nn.Module) -> FoundSite | None:
    weight, ids = operands(node).weight, operands(node).indices
    if not isinstance(weight, fx.Node) or not isinstance(ids, fx.Node):
        return None
    fqn = owner(node)
    site = FoundSite(SiteKind.EMBEDDING, fqn, [Call(node, {"weight": weight}, node)])
    module = model.get_submodule(fqn)
    if not is_token_lookup(ids):
        site.keep = "position embeddings stay fp32: their indices do not come from the input"
    elif not isinstance(module, nn.Embedding):
        site.obstacle = "it calls an embedding function outside of nn.Embedding; use nn.Embedding"
    elif module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        site.obstacle = "max_norm, scale_grad_by_freq and sparse have no quantized form; turn them off"
    return site


def is_token_lookup(ids: fx.Node) -> bool:
    """Whether embedding indices are an input of the model other than positions.

    Positions come from `arange` or a cumulative sum, from a buffer, or from an input called position_ids.
    """
    node: object = ids
    while isinstance(node, fx.Node):
        if node.op == "placeholder":
            return "position" not in node.name
        if node.op != "call_function" or node.target not in VIEW:
            return False
        node = viewed(node)
    return False


def _attention_site(softmax: fx.Node) -> FoundSite | None:
    products = MATMUL | {aten.baddbmm.default, aten.einsum.default}
    scores = search([operands(softmax).self], products, upwards=True)
    output = search(softmax.users, products, upwards=False)
    if scores is None or output is None:
        return None
    fqn = common_owner(owner(scores), owner(softmax), owner(output))
    if scores.target not in MATMUL or output.target not in MATMUL:
        return FoundSite(
            SiteKind.ATTENTION,
            fqn,
            obstacle="its products are not plain matmuls; write them with torch.matmul",
        )
    (query, key), (probabilities, value) = product_operands(scores), product_operands(output)
    quantizable = {"query": query, "key": key, "probabilities": probabilities, "value": value}
    site = FoundSite(SiteKind.ATTENTION, fqn, [Call(scores, quantizable, output)])
    if search([probabilities], SOFTMAX, upwards=True) is not softmax:
        site.obstacle = "its softmax is not the left operand of the second product; write softmax(..) @ value"
    return site


def search(start: Iterable[object], targets: Iterable[object], *, upwards: bool) -> fx.Node | None:
    """Breadth-first search for a call of one of several operators through `BETWEEN_PRODUCTS`.

    Args:
        start: nodes to start from; anything else is skipped.
        targets: the operators to find.
        upwards: whether to follow operands instead of users.

    Returns:
        The nearest call; None if there is none.
    """
    wanted, queue, seen = frozenset(targets), list(start), set()
    while queue:
        node = queue.pop(0)
        if not isinstance(node, fx.Node) or node in seen or node.op != "call_function":
            continue
        seen.add(node)
        if node.target in wanted:
            return node
        if node.target in BETWEEN_PRODUCTS:
            queue += node.all_input_nodes if upwards else list(node.users)
    return None


@dataclass(frozen=True)
class FindSites:
    """Find the operations to quantize.

    Needs: the captured graph. Leaves: `context.sites`, in execution order; the graph is not changed.
    """

    name: str = "find-sites"

    def apply(self, context: PrepareContext) -> PassResult:
        projection = context.adapter.output_projection(context.model)
        context.sites = find_sites(context.captured.graph, context.model, projection)
        calls = sum(len(site.calls) for site in context.sites)
        return PassResult(len(context.sites), f"{calls} calls")
