"""Whether a forward computes the same for the same inputs, whatever was called before.

A graph shows what happens to tensors. What Python keeps or draws, a counter, a cache, `random.random()`, is a
constant there; so the forward is called a few times.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tbt_compile.errors import LoweringError
from tbt_compile.passes.export import unchanged_attributes

_PLAIN = (bool, int, float, str, type(None))
_CONTAINERS = (list, dict, set, tuple)


def check_repeatable(unit: nn.Module, args: tuple[Any, ...]) -> None:
    """Call a module with some inputs, with others, and with the first ones twice more.

    Twice, since what alternates from call to call is back where it was after two.

    Args:
        unit: holds the user's model as `model`; in evaluation mode.
        args: example inputs.

    Raises:
        LoweringError: the results differ, or an attribute changes in every call.
    """
    model: Any = unit.model
    leaves, structure = pytree.tree_flatten(args)
    some = [drawn(leaf, 1) for leaf in leaves]
    others = [drawn(leaf.flip(0) if leaf.dim() else leaf, 2) for leaf in leaves]

    def call(inputs: list[Tensor]) -> list[Any]:
        given = pytree.tree_unflatten([tensor.clone() for tensor in inputs], structure)
        return [_copy(result) for result in pytree.tree_leaves(unit(*given))]

    with unchanged_attributes(model), torch.no_grad():
        try:
            first, _ = call(some), call(others)
            attributes, generators = _attributes(model), _generators()
            again = call(some), call(some)
        except Exception:  # whatever a forward raises on random inputs
            return
        draws, changed = generators != _generators(), _changed(attributes, _attributes(model))
    name = type(model).__name__
    if changed:
        raise LoweringError(
            f"the forward of {name} changes its attribute {changed!r} in every call, and a compiled model "
            "keeps no state: pass it as an argument, or change it in training only"
        )
    if all(len(first) == len(other) and all(map(_same, first, other)) for other in again):
        return
    if draws:
        raise LoweringError(
            f"the forward of {name} draws random numbers, which a compiled model cannot draw alike: pass "
            "them as an argument, or draw them in training only"
        )
    raise LoweringError(
        f"the forward of {name} does not return the same when it is called again with the same inputs, and a "
        "compiled model keeps no state: pass what it keeps between calls as an argument"
    )


def drawn(tensor: Tensor, seed: int = 0) -> Tensor:
    """Random values in place of floats, since examples may be zeros; other tensors as they are."""
    if not tensor.is_floating_point():
        return tensor.contiguous()
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)


def _attributes(model: nn.Module) -> dict[str, Any]:
    """The plain attributes of all modules by dotted name, and the lengths of those that are containers."""
    found = {}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_"):
                continue
            key = f"{prefix}.{name}".lstrip(".")
            if isinstance(value, _PLAIN):
                found[key] = value
            elif type(value) in _CONTAINERS:
                found[key] = len(value)
    return found


def _changed(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    return next((key for key, value in after.items() if key in before and before[key] != value), None)


def _generators() -> tuple[Any, ...]:
    """The states of the generators that a forward may draw from."""
    _, numbers, position, *_ = np.random.get_state(legacy=True)
    return torch.get_rng_state().tolist(), random.getstate(), numbers.tolist(), position  # type: ignore[union-attr]


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
