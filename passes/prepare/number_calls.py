"""Number the product calls of every module's forward, and note the numbers in the captured graph.

`tbt_compile.modules.interception` replaces calls by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx import traceback

from tbt_compile.modules.interception import ProductCalls
from tbt_compile.modules.products import product_name
from tbt_compile.passes.prepare.aten import owner

_KEY = "tbt_call"


class NumberedCalls(ProductCalls):
    """Counts product calls per forward of a module.

    Attributes:
        names: by module name, the calls of its forward in order; None if two of its forwards differ.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, tuple[str, ...] | None] = {}
        self._forwards: list[tuple[str, list[str]]] = [("", [])]

    def product(self, name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Number a call, and make it with the number in the meta of its nodes.

        Args:
            name, function, args, kwargs: as for `ProductCalls.product`.

        Returns:
            What `function` returns.
        """
        module, calls = self._forwards[-1]
        calls.append(name)
        with traceback.annotate({_KEY: (module, len(calls) - 1)}):
            return function(*args, **kwargs)

    def enter(self, module: str, *_: Any) -> None:
        """The forward of the named module begins."""
        self._forwards.append((module, []))

    def leave(self, module: str, *_: Any) -> None:
        """The forward of the named module ends."""
        found = tuple(self._forwards.pop()[1])
        self.names[module] = found if self.names.get(module, found) == found else None


@contextmanager
def numbering(model: nn.Module) -> Iterator[NumberedCalls]:
    """Number the product calls that the model makes in the `with` block, and turn fused layers off.

    `F.multi_head_attention_forward` is taken apart into the calls of `modules.multihead`.
    """
    calls = NumberedCalls()
    handles = []
    for name, module in model.named_modules():
        enter, leave = partial(calls.enter, name), partial(calls.leave, name)
        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with traceback.preserve_node_meta(), calls:
            yield calls
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


@contextmanager
def numbered(graph: fx.Graph) -> Iterator[tuple[str, ...]]:
    """Number the product calls of a graph as those of one forward in the `with` block; yields their names.

    An exported graph remembers which module of the original model made a call. Here its own forward does.
    """
    nodes = [node for node in graph.nodes if product_name(node.target) is not None]
    before = [dict(node.meta) for node in nodes]
    for number, node in enumerate(nodes):
        node.meta["custom"] = {**(node.meta.get("custom") or {}), _KEY: ("", number)}
    try:
        yield tuple(str(product_name(node.target)) for node in nodes)
    finally:
        for node, meta in zip(nodes, before, strict=True):
            node.meta.pop("custom")
            node.meta.update(meta)


def number_of(node: fx.Node) -> int | None:
    """The number of the call that a node of the captured graph is; None if it is no numbered product."""
    found = _annotation(node)
    return None if found is None else int(found[1])


def caller(node: fx.Node) -> str:
    """Name of the module whose forward makes the call; of other nodes, the module that created them.

    A captured graph that is captured again says which module created a node at first.
    """
    found = _annotation(node)
    return owner(node) if found is None else str(found[0])


def _annotation(node: fx.Node) -> Any:
    custom = node.meta.get("custom") or {}
    return custom.get(_KEY) if product_name(node.target) is not None else None
