"""The base class of the fuse and fold passes, which match and rewrite calls of a few operators."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from tbt_compile.errors import LoweringError
from tbt_compile.passes.lazy_code import recompile_later


class RewriteResult(PassResult):
    """torch.fx's `PassResult`, extended by a change count and a note for the dump.

    Attributes:
        changes: number of rewritten calls.
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
    """A pass that matches and rewrites calls of its target operators, then eliminates dead code.

    A subclass lists the root operators of its patterns in `targets` and matches one call at a time in
    `rewrite`. It depends on the graph only, so it also runs in torch.fx's `PassManager`.

    Attributes:
        name: unique in a pipeline, such as "fuse-linear"; dump files carry it.
        targets: the operators whose calls are candidates.
        unmatched: how a dump describes the candidates that did not match, after their number.
    """

    name: ClassVar[str]
    targets: ClassVar[tuple[Any, ...]]
    unmatched: ClassVar[str] = ""

    @abstractmethod
    def rewrite(self, node: fx.Node) -> bool:
        """Try to match `node` and rewrite it in place. Returns whether it matched."""

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Check that inputs carry shapes and dtypes, as in graphs from `torch.export`.

        Raises:
            LoweringError: an input has no "val" in its meta.
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
            recompile_later(graph_module)
        note = f"{len(candidates) - changes} {self.unmatched}" if self.unmatched else ""
        return RewriteResult(graph_module, modified, changes, note)
