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
from torch.overrides import TorchFunctionMode

from tbt_compile.modules.multihead import multi_head_attention
from tbt_compile.modules.products import MULTIHEAD, product_name
from tbt_compile.passes.prepare.aten import owner

_KEY = "tbt_call"


class NumberedCalls(TorchFunctionMode):
    """Counts product calls per forward of a module.

    Attributes:
        names: by module name, the calls of its forward in order; None if two of its forwards differ.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, tuple[str, ...] | None] = {}
        self._forwards: list[tuple[str, list[str]]] = [("", [])]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        name = product_name(func)
        if name is None:
            return func(*args, **kwargs)
        if name == MULTIHEAD:
            with self:
                return multi_head_attention(*args, **kwargs)
        module, calls = self._forwards[-1]
        calls.append(name)
        with traceback.annotate({_KEY: (module, len(calls) - 1)}):
            return func(*args, **kwargs)

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
