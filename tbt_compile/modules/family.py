"""Conversion of a module to its quantized form, as a subclass of its own class.

A `BartScaledWordEmbedding` becomes an instance of a class that derives from `BartScaledWordEmbedding` and
`QuantizedEmbedding`, in this order: `super().forward` in the user's class reaches the quantized look-up.
Parameters, buffers and names do not change; quantizers become children.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from tbt_compile.errors import PlanError


def check_convertible(module: nn.Module, quantized: type[nn.Module], names: Iterable[str]) -> None:
    """Check that `convert` can convert a module.

    Args:
        module: a linear layer, an embedding or an attention module.
        quantized: the class that `convert` would mix in.
        names: attribute names of the quantizers.

    Raises:
        PlanError: the module's class does not call the `forward` that `quantized` overrides, or already has
            an attribute with the name of a quantizer.
    """
    base = type(module)
    original = _original(quantized)
    if not _cooperates(base, original):
        raise PlanError(
            f"{base.__name__} overrides the forward of {original.__name__} without calling it, and its "
            "quantizers would have no effect: exclude it in the recipe or call super().forward in it"
        )
    for name in names:
        if hasattr(module, name):
            raise PlanError(
                f"{base.__name__} already has an attribute {name!r}, the name of a quantizer: rename it"
            )


def convert(module: nn.Module, quantized: type[nn.Module], quantizers: Mapping[str, nn.Module]) -> None:
    """Make `module`, in place, an instance of both its class and `quantized`, and add quantizers to it.

    Args:
        module: accepted by `check_convertible`.
        quantized: the class to mix in.
        quantizers: children to add, by name.
    """
    module.__class__ = quantized_class(type(module), quantized)
    for name, quantizer in quantizers.items():
        module.add_module(name, quantizer)


def replaces_forward(base: type, quantized: type) -> bool:
    """Return whether a class of layers does not use the forward that `quantized` overrides."""
    return not _cooperates(base, _original(quantized))


def _original(quantized: type) -> type:
    """The class of layers that a quantized class derives from."""
    return next(kind for kind in quantized.__mro__[1:] if kind.__module__ != quantized.__module__)


def _cooperates(base: type, original: type) -> bool:
    """Return whether `base.forward` reaches `original.forward`: every override on the way calls `super()`."""
    for kind in base.__mro__:
        if kind is original:
            return True
        forward = kind.__dict__.get("forward")
        if forward is not None and "__class__" not in forward.__code__.co_freevars:
            return False
    return False


def quantized_class(base: type, quantized: type, *, outermost: bool = False) -> type[nn.Module]:
    """Return the class that derives from `base` and `quantized`, made once per pair.

    Args:
        base: the user's class.
        quantized: the class to mix in.
        outermost: put `quantized` before `base` in the method resolution order instead of after it.

    Returns:
        The class; `quantized` itself if `base` is one of its bases.
    """
    if base in quantized.__mro__:
        return quantized
    known = _CLASSES.get((base, quantized))
    if known is not None:
        return known
    bases = (quantized, base) if outermost else (base, quantized)
    members = {
        "__reduce_ex__": _reduce,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "_family": (base, quantized, outermost),
    }
    created = type(f"Quantized{base.__name__}", bases, members)
    _CLASSES[base, quantized] = created
    return created


_CLASSES: dict[tuple[type, type], type] = {}


def _reduce(module: Any, _protocol: int) -> tuple[Any, ...]:
    """Pickle and copy a module via its two bases: pickle cannot look up a class made at run time."""
    state = module.__getstate__() if hasattr(module, "__getstate__") else module.__dict__
    return _rebuild, module._family, state


def _rebuild(base: type, quantized: type, outermost: bool) -> Any:
    kind: Any = quantized_class(base, quantized, outermost=outermost)
    return kind.__new__(kind)
