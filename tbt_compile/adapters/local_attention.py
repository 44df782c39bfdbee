"""LED attends to all tokens from some that the caller names, and a graph holds the way without such tokens.

Its encoder finds out by reading a value: whether any entry of the mask says so. Without
`global_attention_mask`, and with an `attention_mask` of zeros and ones as compiled models take it, none does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_MASK, _DECISION = "global_attention_mask", "is_global_attn"


@contextmanager
def local_attention(model: nn.Module) -> Iterator[None]:
    """Let captures in the `with` block of calls without `global_attention_mask` take the way without."""
    encoders: list[Any] = [module for module in model.modules() if _decides(module)]
    for encoder in encoders:
        encoder.forward = _local(encoder.forward)
    try:
        yield
    finally:
        for encoder in encoders:
            del encoder.forward


def _decides(module: nn.Module) -> bool:
    """Whether a module itself takes the mask, and tells its parts what it says."""
    if not _takes(module, _MASK):
        return False
    parts = [part for part in module.modules() if part is not module]
    return any(_takes(part, _DECISION) for part in parts) and not any(_takes(part, _MASK) for part in parts)


def _takes(module: nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def _local(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get(_MASK) is not None or not torch.compiler.is_exporting():
            return forward(*args, **kwargs)
        with _NoneGlobal():
            return forward(*args, **kwargs)

    return run


class _NoneGlobal(TorchFunctionMode):
    """The truth that an encoder reads is no."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is Tensor.item and args[0].dtype == torch.bool:
            return False
        return func(*args, **(kwargs or {}))
