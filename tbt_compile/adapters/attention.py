"""The transformers attention implementation "tbt": the model's eager attention on quantized operands.

Importing this file registers it with transformers.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tbt_compile.errors import PlanError
from tbt_compile.modules.attention import CHILD

IMPLEMENTATION = "tbt"


def eager_function(module: nn.Module) -> Callable[..., Any] | None:
    """Find the `eager_attention_forward` that a module calls through transformers' attention interface.

    It lives in the file that defines the module's class or a base of it. Returns None if the module's
    forward computes the attention itself.
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
    """Stand in for the forward of a class that defines none."""


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the parameters, in a way that torch.compile can follow."""
    code = inspect.unwrap(function).__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def tbt_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Run quantized attention behind transformers' attention interface.

    A module without quantizers (excluded by the recipe) runs its eager attention unchanged.

    Args:
        module: the attention module that makes the call.
        query: float `[B, H, Q, D]`.
        key: float `[B, H, T, D]`; H may be smaller with grouped-query attention.
        value: float `[B, H, T, D]`, as key.
        attention_mask: additive float mask, broadcast to `[B, H, Q, T]`, or None.
        kwargs: further keywords of the interface; those unknown to the eager function are dropped.

    Returns:
        The output, float `[B, Q, H, D]`, and the attention weights `[B, H, Q, T]`.
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


def tbt_mask(*args: Any, use_vmap: bool = False, **kwargs: Any) -> Tensor | None:
    """transformers' eager mask; a graph broadcasts the indices where it maps a function over them one by one.

    For a function that does not compare indices alone, the results may differ: `smallest_sizes` checks that.
    """
    mask: Tensor | None = eager_mask(*args, use_vmap=use_vmap and not torch.compiler.is_exporting(), **kwargs)
    return mask


def check_implementation(module: nn.Module, _args: tuple[Any, ...]) -> None:
    """Forward pre-hook: refuse to run quantized attention with another implementation.

    Raises:
        PlanError: the implementation was changed after `prepare`; attention would not be quantized.
    """
    implementation = getattr(getattr(module, "config", None), "_attn_implementation", IMPLEMENTATION)
    if CHILD in module._modules and implementation != IMPLEMENTATION:
        raise PlanError(
            f"the attention implementation of this prepared model was set to {implementation!r}, which "
            f"ignores its quantizers: call model.set_attn_implementation({IMPLEMENTATION!r})"
        )


def guard(model: nn.Module) -> None:
    """Add `check_implementation` to every module with quantized attention.

    Also to the model itself: pickle stores the hook by reference, so a process that unpickles any prepared
    model imports this file.
    """
    for module in model.modules():
        if module is model or (CHILD in module._modules and eager_function(module) is not None):
            module.register_forward_pre_hook(check_implementation)


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, tbt_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, tbt_mask)
