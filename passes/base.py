"""The pass interface, and the pipeline that runs a list of passes.

There are two kinds of pass. A context pass is a class with a `name` and an `apply`; it may read and write
state outside the graph. A graph pass is any `PassBase` of torch.fx; ours derive from `RewritePass`. The
docstring of a pass states its preconditions ("Needs") and postconditions ("Leaves"). The pipeline lints every
graph after every pass and can dump it: a bad rewrite is caught at the pass that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from torch import fx
from torch._ops import OpOverload
from torch.fx.passes.infra.pass_base import PassBase
from torch.fx.passes.infra.pass_base import PassResult as FxPassResult

from tbt_compile.errors import LoweringError
from tbt_compile.passes.lazy_code import recompile_later
from tbt_compile.passes.rewrite import RewriteResult


class Context(Protocol):
    """The state that a pipeline transforms: named graphs, and whatever else `describe` prints."""

    def graphs(self) -> Mapping[str, fx.GraphModule]:
        """The current graphs by name. The pipeline lints and dumps them after every pass."""

    def describe(self) -> str:
        """The state outside the graphs, as text for a dump; may be empty."""


ContextT = TypeVar("ContextT", bound=Context)
ContextIn = TypeVar("ContextIn", bound=Context, contravariant=True)


@dataclass(frozen=True)
class PassResult:
    """The outcome of one pass.

    Attributes:
        changes: number of items found or rewritten; 0 if the pass did nothing.
        note: one line for the dump.
    """

    changes: int
    note: str = ""


class Pass(Protocol[ContextIn]):
    """A pass that updates a context in place."""

    @property
    def name(self) -> str:
        """The name, unique in its pipeline, such as "find-sites"; dump files carry it."""

    def apply(self, context: ContextIn) -> PassResult:
        """Run the pass on `context`. Raises a `TbtError` if the model violates a precondition."""


@dataclass(frozen=True)
class Pipeline(Generic[ContextT]):
    """An ordered list of context and graph passes over one type of context."""

    name: str
    passes: Sequence[Pass[ContextT] | PassBase]

    def run(self, context: ContextT, dump: str | Path | None = None) -> ContextT:
        """Run every pass in order, lint after each, and return `context`.

        With `dump`, pass i writes `<i>_<pass>.<graph>.txt` for each graph and `<i>_<pass>.txt` for the rest.
        """
        for index, step in enumerate(self.passes):
            result = run_pass(step, context)
            lint(context)
            if dump is not None:
                write_dump(context, pass_name(step), result, Path(dump), index)
        return context


def run_pass(step: Pass[ContextT] | PassBase, context: ContextT) -> PassResult:
    """Run one pass of either kind; a `PassBase` is called on each graph of the context."""
    if not isinstance(step, PassBase):
        return step.apply(context)
    results = [_call(step, module) for module in context.graphs().values()]
    return PassResult(
        sum(result.changes for result in results), " ".join(result.note for result in results if result.note)
    )


def _call(step: PassBase, module: fx.GraphModule) -> PassResult:
    """Call a graph pass and move the resulting graph into `module`.

    Raises:
        LoweringError: the pass returned something else than torch.fx's `PassResult`, or its graph has other
            inputs than before or reads attributes that `module` lacks.
    """
    inputs, result = _inputs(module.graph), step(module)
    if result is None:
        return PassResult(0)
    name = pass_name(step)
    if not isinstance(result, FxPassResult):
        raise LoweringError(
            f"the pass {name} returned a {type(result).__name__}: expected torch.fx's PassResult, or None"
        )
    graph = result.graph_module.graph
    if _inputs(graph) != inputs:
        raise LoweringError(f"the pass {name} changed the inputs of the graph: a pass may rewrite calls only")
    read = (str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module"))
    added = next((attribute for attribute in read if not _has_attribute(module, attribute)), None)
    if added is not None:
        raise LoweringError(f"the pass {name} reads the new attribute {added!r}: add none to the graph")
    if result.graph_module is not module:  # the context keeps its module object
        module.graph = graph
    if isinstance(result, RewriteResult):
        return PassResult(result.changes, result.note)
    return PassResult(int(result.modified))


def _has_attribute(module: fx.GraphModule, path: str) -> bool:
    """Whether a dotted path leads to a parameter, buffer or submodule."""
    try:
        attrgetter(path)(module)
    except AttributeError:
        return False
    return True


def _inputs(graph: fx.Graph) -> list[str]:
    return [node.name for node in graph.find_nodes(op="placeholder")]


def pass_name(step: Pass[ContextT] | PassBase) -> str:
    """The name of a pass; for a `PassBase` without one, its class name."""
    return str(getattr(step, "name", type(step).__name__))


def lint(context: Context) -> None:
    """Lint every graph; its code is generated again when it is needed."""
    for module in context.graphs().values():
        module.graph.lint()
        recompile_later(module)


def write_dump(context: Context, name: str, result: PassResult, folder: Path, index: int) -> None:
    """Write the state after one pass to a folder.

    Args:
        context: the state to dump.
        name: name of the pass.
        result: what the pass returned; goes into the header.
        folder: created if missing.
        index: position of the pass in its pipeline, the prefix of the file names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{index:02d}_{name}"
    header = f"# {name}: {result.changes} changes. {result.note}".rstrip()
    (folder / f"{stem}.txt").write_text(f"{header}\n{context.describe()}\n", encoding="utf-8")
    for graph_name, module in context.graphs().items():
        (folder / f"{stem}.{graph_name}.txt").write_text(graph_text(module), encoding="utf-8")


def graph_text(module: fx.GraphModule) -> str:
    """A graph as deterministic text, one line per node: for dumps and golden tests.

    Parameters and buffers have no line; the calls that use them print their names. The leading tensor
    operands of a call print by position, all later ones by name.
    """
    lines = [_node_text(node) for node in module.graph.nodes if node.op != "get_attr"]
    return "\n".join(lines) + "\n"


def _node_text(node: fx.Node) -> str:
    if node.op == "placeholder":
        return f"{node.name} = input"
    if node.op == "output":
        (results,) = node.args
        return f"output {_argument_text(results)}"
    target = node.target if isinstance(node.target, str) else target_name(node)
    arguments = [_argument_text(argument) for argument in node.args]
    if isinstance(node.target, OpOverload):
        names = _names_to_print(node.target)
        arguments = [f"{name}={text}" if name else text for name, text in zip(names, arguments, strict=False)]
    arguments += [f"{name}={_argument_text(value)}" for name, value in node.kwargs.items()]
    return f"{node.name} = {target}({', '.join(arguments)})"


def _names_to_print(operator: OpOverload) -> list[str]:
    """The printed name of each operand of an operator; "" for the leading tensors."""
    arguments = operator._schema.arguments
    leading = list(takewhile(lambda argument: "Tensor" in str(argument.type), arguments))
    return [""] * len(leading) + [argument.name for argument in arguments[len(leading) :]]


def target_name(node: fx.Node) -> str:
    """The short name of a call_function node's target: "linear", "softmax"."""
    target = node.target
    packet = getattr(target, "overloadpacket", target)
    return getattr(packet, "__name__", str(packet))


def _argument_text(value: object) -> str:
    if isinstance(value, fx.Node):
        return str(value.target) if value.op == "get_attr" else value.name
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_argument_text(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_argument_text(item)}" for name, item in value.items()) + "}"
    return repr(value)
