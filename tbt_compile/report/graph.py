"""The captured graph before and after quantization, with the modules and quantizers of its operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from tbt_compile.adapters.wrappers import unwrapped
from tbt_compile.encoding import Encoding
from tbt_compile.errors import PlanError
from tbt_compile.inspection.layers import Summary
from tbt_compile.modules.calls import QuantizedCall
from tbt_compile.passes.prepare.aten import MATMUL
from tbt_compile.passes.prepare.insert_quantizers import HOLDER, InsertQuantizers
from tbt_compile.passes.prepare.pipeline import PLAN
from tbt_compile.passes.prepare.plan import QuantPlan
from tbt_compile.passes.prepare.site_plan import SitePlan
from tbt_compile.passes.prepare.unquantized import Unquantized
from tbt_compile.preparation import make_context
from tbt_compile.recipe import Recipe
from tbt_compile.report.sections import Graph, Graphs, Operation, Quantizer

_NOT_QUANTIZED = "float32"
_ELSEWHERE = "the checkpoint has it in full precision"


def graphs_of(
    model: nn.Module, recipe: str | Recipe, note: str, summary: Summary, example_inputs: Any = None
) -> Graphs:
    """Capture a model in full precision, and put the quantizers of a recipe into the graph.

    Args:
        model: in full precision; it is not changed. The values of its weights do not matter.
        recipe: that the model is, or would be, quantized with.
        note: says what was captured.
        summary: of the quantized model, whose encodings the graph must have.
        example_inputs: as for `prepare`.

    Returns:
        Both graphs.

    Raises:
        RecipeError, CaptureError: as for `prepare`.
        PlanError: as for `prepare`, or the recipe gives other quantizers than those of the quantized model.
    """
    context = PLAN.run(make_context(unwrapped(model), recipe, example_inputs))
    context.plan = _as_in(summary, context.planned)
    before = _GraphReader(context.captured, {}).read()
    InsertQuantizers().apply(context)
    kept = {item.name: item.reason for item in context.planned.unquantized}
    return Graphs(context.recipe.notation, note, before, _GraphReader(context.captured, kept).read())


def _as_in(summary: Summary, plan: QuantPlan) -> QuantPlan:
    """The plan without the sites that a checkpoint, which was quantized elsewhere, has in full precision.

    Raises:
        PlanError: what is left differs from the quantized model.
    """
    found = {(layer.name, each.name, each.encoding) for layer in summary for each in layer.activations}
    quantized = {each.value for each in Encoding if each.quantized}
    found |= {(layer.name, "weight", layer.weight) for layer in summary if layer.weight in quantized}
    names = {name for name, _, _ in found}
    lost = [site for site in plan if site.name not in names and _quantizes(site)]
    sites = tuple(site for site in plan if site not in lost)
    left_out = [Unquantized(site.fqn, _ELSEWHERE) for site in lost]
    planned = {
        (site.name, operand.name, operand.encoding.value)
        for site in sites
        for operand in site.operands
        if operand.encoding.quantized
    }
    if planned != found:
        name, operand, _ = min(planned ^ found)
        raise PlanError(
            f"the quantizers of this {summary.model} are not those that its recipe inserts (the first that "
            f"differs is of {operand} of {name})"
        )
    return replace(plan, sites=sites, unquantized=(*plan.unquantized, *left_out))


def _quantizes(site: SitePlan) -> bool:
    return any(operand.encoding.quantized for operand in site.operands)


class _GraphReader:
    """Reads one graph; parameters are no operations.

    Attributes:
        module: has the graph.
        kept: why modules and parameters stay in full precision, by name.
        modules: so far, see `Graph.modules`.
        places: the index of each by its path.
        operations: so far.
        numbers: the index of the operation by node.
    """

    def __init__(self, module: fx.GraphModule, kept: Mapping[str, str]) -> None:
        self.module, self.kept = module, kept
        self.modules: list[tuple[str, str, int]] = []
        self.places: dict[tuple[str, ...], int] = {}
        self.operations: list[Operation] = []
        self.numbers: dict[fx.Node, int] = {}

    def read(self) -> Graph:
        """The graph as data."""
        root = next((stack[0][1] for node in self.module.graph.nodes if (stack := _stack(node))), "model")
        self._place((("", root),))
        for node in self.module.graph.nodes:
            if node.op == "get_attr" or self._is_quantizer(node):
                continue
            self.numbers[node] = len(self.operations)
            self.operations.append(self._operation(node))
        return Graph(tuple(self.modules), tuple(self.operations))

    def _operation(self, node: fx.Node) -> Operation:
        sources = dict.fromkeys(source for read in node.all_input_nodes for source in self._sources(read))
        inputs = tuple(self.numbers[source] for source in sources if source in self.numbers)
        module = 0 if node.op in ("placeholder", "output") else self._place(_inherited_stack(node))
        quantizers = tuple(self._quantizers(node, self.modules[module][0]))
        return Operation(self._label(node), module, inputs, _shape(node), quantizers)

    def _sources(self, node: fx.Node) -> Iterator[fx.Node]:
        """The node, or what its quantizer takes."""
        if self._is_quantizer(node):
            yield from node.all_input_nodes
        else:
            yield node

    def _quantizers(self, node: fx.Node, module: str) -> Iterator[Quantizer]:
        """Those that the operands pass, and what stays in full precision."""
        if node.op == "call_module" and isinstance(call := self._submodule(node), QuantizedCall):
            for name, child in call.named_children():
                yield _described(name.removesuffix("_quantizer"), child)
            return
        for read in node.all_input_nodes:
            operand = str(read.target).rpartition(".")[2]
            if self._is_quantizer(read):
                yield _described(operand, self._submodule(read))
            elif why := self._why_kept(read, module):
                yield Quantizer(operand, _NOT_QUANTIZED, "none", why)
        if node.target in MATMUL and (why := self.kept.get(module)):
            yield Quantizer("both operands", _NOT_QUANTIZED, "none", why)

    def _why_kept(self, read: fx.Node, module: str) -> str | None:
        """Why a parameter that takes part in products is in full precision; None for anything else."""
        if read.op != "get_attr" or not _is_matrix(read):
            return None
        return self.kept.get(str(read.target)) or self.kept.get(module)

    def _is_quantizer(self, node: fx.Node) -> bool:
        inside = node.op == "call_module" and str(node.target).startswith(f"{HOLDER}.")
        return inside and not isinstance(self._submodule(node), QuantizedCall)

    def _submodule(self, node: fx.Node) -> nn.Module:
        return self.module.get_submodule(str(node.target))

    def _label(self, node: fx.Node) -> str:
        if node.op in ("placeholder", "output"):
            return str(node.target)
        if node.op == "call_module":
            found = self._submodule(node)
            return f"quantized {found.function}" if isinstance(found, QuantizedCall) else type(found).__name__
        operator: Any = getattr(node.target, "overloadpacket", node.target)
        return str(operator.__name__).strip("_").replace("quantized_", "quantized ")

    def _place(self, stack: tuple[tuple[str, str], ...]) -> int:
        """The index of the module at the end of a stack of names and classes."""
        path = tuple(name for name, _ in stack)
        if path not in self.places:
            parent = self._place(stack[:-1]) if len(stack) > 1 else -1
            self.places[path] = len(self.modules)
            self.modules.append((*stack[-1], parent))
        return self.places[path]


def _stack(node: fx.Node) -> tuple[tuple[str, str], ...]:
    """The modules that a node was captured in, outermost first: dotted names and classes."""
    entries = node.meta.get("nn_module_stack") or {}
    kinds = ((str(name), kind if isinstance(kind, str) else kind.__name__) for name, kind in entries.values())
    stack = tuple((name, kind.rpartition(".")[2]) for name, kind in kinds)
    return stack if not stack or stack[0][0] == "" else (("", "model"), *stack)


def _inherited_stack(node: fx.Node) -> tuple[tuple[str, str], ...]:
    """The stack of a node, or of the first that takes its result: passes insert nodes without one."""
    waiting, seen = [node], {node}
    for each in waiting:
        if stack := _stack(each):
            return stack
        waiting += [user for user in each.users if user not in seen]
        seen.update(each.users)
    return (("", "model"),)


def _described(operand: str, quantizer: Any) -> Quantizer:
    encoding: Encoding = quantizer.encoding
    if not encoding.quantized:
        return Quantizer(operand, _NOT_QUANTIZED, "none", "the recipe leaves it in full precision")
    category = "signed" if encoding.signed else "non-negative"
    why = getattr(quantizer, "reason", "") or "weights are signed"
    return Quantizer(operand, encoding.value, "8-bit" if encoding.bits == 8 else category, why)


def _is_matrix(parameter: fx.Node) -> bool:
    """Whether a parameter takes part in products; biases and the weights of norms do not."""
    value = parameter.meta.get("val")
    return isinstance(value, Tensor) and value.dim() > 1


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return ""
    return f"[{', '.join(str(size) if isinstance(size, int) else '*' for size in value.shape)}]"
