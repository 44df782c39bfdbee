"""The attention implementation "tbt" of transformers: the model's own eager attention, quantized."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tbt_compile.modules.attention import CHILD

IMPLEMENTATION = "tbt"


def eager_function(module: nn.Module) -> Callable[..., Any] | None:
    """The `eager_attention_forward` that the module calls through transformers' attention interface.

    It is in the file that defines the module's class or a parent of it; None for a module that computes its
    attention in its own forward.
    """
    for kind in type(module).__mro__:
        forward = inspect.unwrap(kind.__dict__.get("forward", _no_forward))
        if "ALL_ATTENTION_FUNCTIONS" not in forward.__code__.co_names:
            continue
        function = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    return None


def _no_forward() -> None:
    """Stands for the forward of a class that defines none."""


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def tbt_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Attention of transformers' interface: q, k, v `[B, H, T, D]` -> (output `[B, T, H, D]`, probabilities).

    A module without quantizers (excluded by the recipe) runs its eager attention unchanged.
    """
    function = eager_function(module)
    assert function is not None, f"{type(module).__name__} has no eager attention"
    core = module._modules.get(CHILD)
    if core is None:
        return function(module, query, key, value, attention_mask, **kwargs)
    # The interface carries more keywords than an eager function reads (cache positions, batch statistics).
    known = _parameters(function)
    inputs = {name: value for name, value in kwargs.items() if name in known}
    inputs |= {"query": query, "key": key, "value": value, "attention_mask": attention_mask}
    return core(function, module, inputs)


def register() -> None:
    """Make "tbt" known to transformers; calling it again changes nothing."""
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, tbt_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, eager_mask)
