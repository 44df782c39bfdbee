"""State of quantizers that stays float32, whatever the model is converted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound="Float32State")


class Float32State(nn.Module):
    """A module whose float32 tensors follow the model to a device but not to another dtype.

    `model.bfloat16()` would round learned scales to 8 bits, and training steps on them to nothing.
    """

    def _apply(self: ModuleT, fn: Callable[..., Any], recurse: bool = True) -> ModuleT:
        def move(tensor: Tensor) -> Any:
            if tensor.dtype is not torch.float32:
                return fn(tensor)
            # Conversions of dtype skip integers; every other one treats the bits alike.
            moved = fn(tensor.view(torch.int32))
            return moved.view(torch.float32) if moved.dtype is torch.int32 else tensor

        return super()._apply(move, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load state in which learned scales are scalars, as they were saved before, too."""
        for name, parameter in self._parameters.items():
            stored = state_dict.get(prefix + name)
            if parameter is not None and stored is not None and stored.dim() == 0 and parameter.dim() == 1:
                state_dict[prefix + name] = stored.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)
