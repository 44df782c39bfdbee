"""The call whose multiplications a summary counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.adapters import adapter_for, call_record
from tbt_compile.errors import CaptureError, LoweringError
from tbt_compile.passes.prepare.capture import split_example_inputs

_POSITIONS = ("max_position_embeddings", "max_target_positions")
"""Fields of configs with the largest number of tokens."""

Call = tuple[tuple[Any, ...], dict[str, Any]]


def call_of(module: nn.Module, inputs: Any, tokens: int) -> Call:
    """Positional and keyword arguments for one call of a model.

    Args:
        module: in full precision or frozen.
        inputs: as for `prepare`; None for the recorded example inputs, with one row of `tokens` tokens in
            the place of token ids.
        tokens: at most the positions of the model are taken.

    Returns:
        The arguments.

    Raises:
        CaptureError: nothing tells how the model is called, or the inputs do not fit its forward.
    """
    if inputs is not None:
        return split_example_inputs(module, inputs)
    try:
        found = adapter_for(module).example_call(module)
    except LoweringError as error:
        raise CaptureError(
            f"nothing records how {type(module).__name__} is called: pass inputs, as its forward takes them"
        ) from error
    config = getattr(module, "config", None)
    if config is not None:
        length = min([tokens, *(size for name in _POSITIONS if (size := getattr(config, name, None)))])
        found = {name: _one_row(value, length) for name, value in found.items()}
    return call_record.as_call(found, module)


def described(module: nn.Module, call: Call) -> str:
    """Names and shapes of the tensors of a call, such as "input_ids [1, 128]"."""
    named = call_record.named_arguments(module, *call)
    return ", ".join(
        f"{name} {list(value.shape)}" for name, value in named.items() if isinstance(value, Tensor)
    )


def _one_row(value: Any, length: int) -> Any:
    """The first row of a tensor; of token ids or a mask, one of another length."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 2 and not value.is_floating_point():
        return torch.ones(1, length, dtype=value.dtype)
    return value[:1]
