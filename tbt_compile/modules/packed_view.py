"""What `module.weight` is in a frozen model: shape, dtype and device of a weight without values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from tbt_compile.errors import PlanError

if TYPE_CHECKING:
    from tbt_compile.modules.frozen import FrozenWeight


class PackedView:
    """Stands for a float weight whose values exist as packed codes only.

    Modules may ask for its `shape`, `dtype` and `device`, as embeddings of Gemma do in their forward. It
    holds no memory and is no tensor: any operation on its values raises `PlanError`.

    Args:
        packed: holds the codes.
        transposed: the weight was [K, N] (Conv1D), not [N, K].
    """

    requires_grad = False
    is_meta = False
    _is_hf_initialized = True  # transformers draws no values for it

    def __init__(self, packed: FrozenWeight, transposed: bool) -> None:
        self._packed, self._transposed = packed, transposed

    @property
    def shape(self) -> torch.Size:
        """The shape that the float weight had."""
        rows, columns = len(self._packed.scale), self._packed.columns
        return torch.Size((columns, rows) if self._transposed else (rows, columns))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the values that the codes stand for."""
        return self._packed.scale.dtype

    @property
    def device(self) -> torch.device:
        """The device of the codes."""
        return self._packed.packed.device

    @property
    def ndim(self) -> int:
        """2."""
        return len(self.shape)

    def dim(self) -> int:
        """As `ndim`."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """As `Tensor.size`."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """Number of elements."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """True."""
        return True

    def __len__(self) -> int:
        return self.shape[0]

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        """Refuse an operation of torch."""
        del types, args, kwargs
        raise PlanError(_refusal(getattr(function, "__name__", str(function))))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # copy and pickle ask for optional methods
            raise AttributeError(name)
        raise _NoAttributeError(_refusal(name))

    def __repr__(self) -> str:
        return f"PackedView({list(self.shape)}, {self.dtype})"


class _NoAttributeError(PlanError, AttributeError):
    """An attribute that reads values; `hasattr` has to see an AttributeError."""


def stored_weight(module: nn.Module) -> Tensor | None:
    """The weight of a module, or None if it exists as packed codes only."""
    weight: Any = module.weight
    return None if isinstance(weight, PackedView) else weight


def _refusal(operation: str) -> str:
    return (
        f"{operation} of a frozen weight: its values are packed codes, and only shape, dtype and device can "
        "be read; exclude the module in the recipe to keep its weight in full precision"
    )
