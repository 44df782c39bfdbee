"""What a pass is, and the one loop that runs a list of them.

There are two kinds. A context pass is a small class with a `name` and an `apply`, for steps that read or
leave more than a graph. A graph pass is any `PassBase` of torch.fx; ours derive from `RewritePass`. Each
docstring states what the pass needs and what it leaves. After each pass every graph of the context is
linted, and on request written to a folder, so that a wrong rewrite is found at the pass that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from torch import fx
from torch._ops import OpOverload
from torch.fx.passes.infra.pass_base import PassBase

from tbt_compile.passes.rewrite import RewriteResult


class Context(Protocol):
    """What a pipeline works on: any object that can name its graphs and describe the rest of its state."""

    def graphs(self) -> Mapping[str, fx.GraphModule]:
        """The graphs that exist at this point, by name; linted and dumped after every pass."""

    def describe(self) -> str:
        """Everything that is not a graph, as text for a dump; may be empty."""


ContextT = TypeVar("ContextT", bound=Context)
ContextIn = TypeVar("ContextIn", bound=Context, contravariant=True)


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        changes: number of things found or rewritten; 0 means that the pass had nothing to do.
        note: one line for the dump.
    """

    changes: int
    note: str = ""


class Pass(Protocol[ContextIn]):
    """A step that works on the whole context, in place."""

    @property
    def name(self) -> str:
        """Unique in its pipeline, in the form "find-sites"; names the files of a dump."""

    def apply(self, context: ContextIn) -> PassResult:
        """Do the step. Raises a `TbtError` when the model is not fit for it."""


@dataclass(frozen=True)
class Pipeline(Generic[ContextT]):
    """An ordered list of passes, of both kinds, over one kind of context."""

    name: str
    passes: Sequence[Pass[ContextT] | PassBase]

    def run(self, context: ContextT, dump: str | Path | None = None) -> ContextT:
        """Apply every pass in order, lint after each, and return the same context.

        With `dump`, phase i writes `<i>_<pass>.<graph>.txt` for each graph, `<i>_<pass>.txt` for the rest.
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
    """Call a graph pass so that its result ends up in `module`."""
    result = step(module)
    if result is None:
        return PassResult(0)
    if result.graph_module is not module:  # the context holds on to its module, so that takes the new graph
        module.graph = result.graph_module.graph
    if isinstance(result, RewriteResult):
        return PassResult(result.changes, result.note)
    return PassResult(int(result.modified))


def pass_name(step: Pass[ContextT] | PassBase) -> str:
    """The name of a pass; a `PassBase` without one goes by its class."""
    return str(getattr(step, "name", type(step).__name__))


def lint(context: Context) -> None:
    """Check every graph and bring its compiled code up to date."""
    for module in context.graphs().values():
        module.graph.lint()
        module.recompile()


def write_dump(context: Context, name: str, result: PassResult, folder: Path, index: int) -> None:
    """Write the state after the pass `name` to `folder`, which is made if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{index:02d}_{name}"
    header = f"# {name}: {result.changes} changes. {result.note}".rstrip()
    (folder / f"{stem}.txt").write_text(f"{header}\n{context.describe()}\n", encoding="utf-8")
    for graph_name, module in context.graphs().items():
        (folder / f"{stem}.{graph_name}.txt").write_text(graph_text(module), encoding="utf-8")


def graph_text(module: fx.GraphModule) -> str:
    """A graph as text, one line per node, the same on every run: for dumps and golden tests.

    Parameters and buffers are left out of the list: they show where they are used. Operands of operators
    are named from the first that is no tensor.
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
    """For each operand of an operator its name, or "" for the tensors that come before any other operand."""
    arguments = operator._schema.arguments
    leading = list(takewhile(lambda argument: "Tensor" in str(argument.type), arguments))
    return [""] * len(leading) + [argument.name for argument in arguments[len(leading) :]]


def target_name(node: fx.Node) -> str:
    """Short name of the operator or function that a call_function node calls: "linear", "softmax"."""
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
