"""The base of the passes that fuse and fold: each looks at the calls of a few operators and rewrites some."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from tbt_compile.errors import LoweringError


class RewriteResult(PassResult):
    """The result of a pass in torch.fx's form, with what a dump says of it.

    Attributes:
        changes: number of calls that were rewritten.
        note: one line for the dump.
    """

    changes: int
    note: str

    def __new__(
        cls, graph_module: fx.GraphModule, modified: bool, changes: int, note: str = ""
    ) -> RewriteResult:
        result = super().__new__(cls, graph_module, modified)
        assert isinstance(result, cls)
        result.changes, result.note = changes, note
        return result


class RewritePass(PassBase):
    """Rewrites calls of some operators wherever a pattern matches, then eliminates dead code.

    A subclass says which operators its patterns hang on and matches one call at a time. It needs nothing but
    the graph, so it runs in torch.fx's `PassManager` as well as in a `Pipeline`.

    Attributes:
        name: unique in a pipeline, in the form "fuse-linear"; names the files of a dump.
        targets: the operators whose calls are candidates.
        unmatched: what a dump says of the candidates that no pattern matches, after their number.
    """

    name: ClassVar[str]
    targets: ClassVar[tuple[Any, ...]]
    unmatched: ClassVar[str] = ""

    @abstractmethod
    def rewrite(self, node: fx.Node) -> bool:
        """Match the call `node` and rewrite it in place; returns whether it did."""

    def requires(self, graph_module: fx.GraphModule) -> None:
        """The graph carries shapes and dtypes, as graphs of `torch.export` do.

        Raises:
            LoweringError: an input has none.
        """
        for node in graph_module.graph.find_nodes(op="placeholder"):
            if "val" not in node.meta:
                raise LoweringError(
                    f"{self.name} reads shapes, and input {node.name!r} has none: capture the graph with "
                    "torch.export"
                )

    def call(self, graph_module: fx.GraphModule) -> RewriteResult:
        """Rewrite every candidate, in graph order."""
        graph = graph_module.graph
        candidates = [
            node for node in graph.nodes if node.op == "call_function" and node.target in self.targets
        ]
        changes = sum(self.rewrite(node) for node in candidates)
        modified = graph.eliminate_dead_code() or changes > 0
        if modified:
            graph_module.recompile()
        note = f"{len(candidates) - changes} {self.unmatched}" if self.unmatched else ""
        return RewriteResult(graph_module, modified, changes, note)
