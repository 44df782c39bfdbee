"""The call whose activations a report counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.inspection.example_calls import Call, call_of


def representative_call(
    module: nn.Module, inputs: Any, tokens: int, ids: Sequence[int] | None = None
) -> tuple[Call, str]:
    """As `call_of`, with different tokens in one row: activations of one repeated token say little.

    Args:
        module: prepared or frozen.
        inputs: as for `call_of`.
        tokens: at most the positions of the model are taken.
        ids: of a text, taken for the source and the target; None for random ones, the same each time.

    Returns:
        Positional and keyword arguments, and what they are in words.

    Raises:
        CaptureError: as for `call_of`.
    """
    config = getattr(module, "config", None)
    longest = getattr(config, "max_target_positions", None) or tokens  # of the decoders of audio and images
    args, kwargs = call_of(module, inputs, min(longest, tokens if ids is None else len(ids)))
    if inputs is not None or config is None:
        return (args, kwargs), "the example inputs"
    chosen = {name: _tokens(module, name, value, ids) for name, value in kwargs.items()}
    return (args, chosen), "random tokens" if ids is None else "the source of the first text"


def _tokens(module: Any, name: str, value: Any, ids: Sequence[int] | None) -> Any:
    if not name.endswith("input_ids") or not isinstance(value, Tensor):
        return value
    count = value.shape[1]
    if ids is not None:
        return torch.tensor([list(ids)[:count]])
    vocabulary = module.get_input_embeddings().num_embeddings
    return torch.randint(0, vocabulary, (1, count), generator=torch.Generator().manual_seed(0))
