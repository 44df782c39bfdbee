"""Run a module's own forward with some calls of product functions replaced.

Calls are counted in the order in which the forward makes them; those made by its submodules do not count. A
forward that makes other calls than when the model was prepared is refused: a call could be taken for another.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from tbt_compile.errors import CaptureError
from tbt_compile.modules.calls import QuantizedCall
from tbt_compile.modules.multihead import multi_head_attention
from tbt_compile.modules.products import MULTIHEAD, product_name

CALLS = "tbt_calls"
"""The child of an owner that holds its quantized calls."""


def call_name(owner: str, number: int) -> str:
    """Dotted name of a quantized call.

    >>> call_name("encoder.attn", 2), call_name("", 0)
    ('encoder.attn.tbt_calls.2', 'tbt_calls.0')
    """
    return f"{owner}.{CALLS}.{number}".removeprefix(".")


def split_call(name: str) -> tuple[str, int] | None:
    """The inverse of `call_name`; None for the name of any other module.

    >>> split_call("encoder.attn.tbt_calls.2"), split_call("encoder.fc1")
    (('encoder.attn', 2), None)
    """
    owner, found, number = f".{name}".rpartition(f".{CALLS}.")
    return (owner.removeprefix("."), int(number)) if found else None


class _Running(threading.local):
    """The interceptions of this thread's running forwards, innermost last; None for a submodule's forward."""

    def __init__(self) -> None:
        self.stack: list[Interception | None] = []


_RUNNING = _Running()


class ProductCalls(TorchFunctionMode, ABC):
    """Hands every call of a product function to `product`.

    `F.multi_head_attention_forward` is taken apart into calls of simpler products.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        name = product_name(func) if self.listens() else None
        if name is None:
            return func(*args, **kwargs)
        if name == MULTIHEAD:
            with self:
                return multi_head_attention(*args, **kwargs)
        return self.product(name, func, args, kwargs)

    def listens(self) -> bool:
        """Return whether the calls that are made now are of interest."""
        return True

    @abstractmethod
    def product(self, name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a call.

        Args:
            name: of the function, from `product_name`.
            function: what was called.
            args, kwargs: of the call.

        Returns:
            What the caller gets.
        """


class Interception(ProductCalls):
    """Hands the product calls of one forward to `handle(number, name, function, args, kwargs)`."""

    def __init__(self, handle: Callable[..., Any]) -> None:
        super().__init__()
        self.handle, self.names = handle, list[str]()

    def listens(self) -> bool:
        """Return whether the forward itself runs, and no submodule."""
        return _RUNNING.stack[-1] is self

    def product(self, name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Number a call and hand it on.

        Args:
            name, function, args, kwargs: as for `ProductCalls.product`.

        Returns:
            What `handle` returns.
        """
        self.names.append(name)
        return self.handle(len(self.names) - 1, name, function, args, kwargs)


@contextmanager
def intercepting(handle: Callable[..., Any]) -> Any:
    """Intercept the product calls of the `with` block, but not those of modules that `guard` has hooks on."""
    interception = Interception(handle)
    _RUNNING.stack.append(interception)
    try:
        with interception:
            yield interception
    finally:
        _RUNNING.stack.pop()


def enter_submodule(*_: Any) -> None:
    """Forward pre-hook: the calls from here on are the submodule's."""
    _RUNNING.stack.append(None)


def leave_submodule(*_: Any) -> None:
    """Forward hook: the submodule has returned, or raised."""
    _RUNNING.stack.pop()


def guard(module: nn.Module) -> list[RemovableHandle]:
    """Keep the calls of every submodule from being taken for calls of `module`."""
    handles = []
    for submodule in module.modules():
        if submodule is not module and enter_submodule not in submodule._forward_pre_hooks.values():
            handles.append(submodule.register_forward_pre_hook(enter_submodule, prepend=True))
            handles.append(submodule.register_forward_hook(leave_submodule, always_call=True))
    return handles


class Calls(nn.Module):
    """The quantized calls of an owner, by number.

    Attributes:
        names: the product calls that the owner's forward made when it was prepared, in order.
        sites: the plans of the calls as JSON-ready values, from which they can be made again.
    """

    def __init__(self, names: Sequence[str], sites: list[dict[str, Any]]) -> None:
        super().__init__()
        self.names, self.sites = tuple(names), sites

    def call(self, number: int) -> QuantizedCall | None:
        """The module in place of a call; None for one that stays as it is."""
        found = self._modules.get(str(number))
        assert found is None or isinstance(found, QuantizedCall)
        return found

    def run(self, forward: Callable[..., Any], owner: str, args: Any, kwargs: Any) -> Any:
        """Return `forward(*args, **kwargs)` with the calls replaced.

        Args:
            forward: the owner's forward, bound.
            owner: class name of the owner, for messages.
            args, kwargs: of the call.

        Returns:
            What `forward` returns.

        Raises:
            CaptureError: the forward makes other product calls than when it was prepared.
        """

        def handle(number: int, name: str, function: Any, args: Any, kwargs: Any) -> Any:
            if number >= len(self.names) or self.names[number] != name:
                expected = self.names[number] if number < len(self.names) else "no further call"
                raise CaptureError(_changed(owner, f"its product {number} is {name}", f"{expected}"))
            module = self.call(number)
            return function(*args, **kwargs) if module is None else module(*args, **kwargs)

        with intercepting(handle) as interception:
            result = forward(*args, **kwargs)
        if len(interception.names) != len(self.names):
            found = f"it made {len(interception.names)} products"
            raise CaptureError(_changed(owner, found, f"{len(self.names)}"))
        return result


def _changed(owner: str, found: str, expected: str) -> str:
    return (
        f"the forward of {owner} computes something else than when it was prepared: {found}, expected "
        f"{expected}. Prepare it with example inputs that take the same path, or exclude it in the recipe"
    )


class QuantizedCalls:
    """Mixin that goes before the class of an owner and runs its forward with quantized calls."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward of the original class."""
        calls = self.__dict__["_modules"][CALLS]
        forward = super().forward  # type: ignore[misc]
        name = type(self).__name__.removeprefix("Quantized")
        return calls.run(forward, name, args, kwargs)
