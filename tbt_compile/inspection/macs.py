"""Multiplications of one call of a model by module, counted by PyTorch without computing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from tbt_compile.adapters import adapter_for
from tbt_compile.errors import CaptureError
from tbt_compile.inspection.example_calls import Call, described
from tbt_compile.modules import evaluation_mode, is_prepared

_ROOT = "Global"


def count_macs(model: nn.Module, call: Call) -> dict[str, int]:
    """Count the multiplications that each module makes itself, without those of its submodules.

    The call runs on tensors without data: sizes are all that matters, and a large model takes no longer.

    Args:
        model: in full precision, or frozen; its mode does not change.
        call: positional and keyword arguments.

    Returns:
        Multiplications by dotted name of the module; those that make none are left out.

    Raises:
        CaptureError: the call fails, or depends on the values of its inputs.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    counter = FlopCounterMode(display=False)
    try:
        # Without gradients, products of codes look at the values for the precision that they need.
        with _evaluating(model), torch.enable_grad(), fake:
            args, kwargs = tree_map_only(Tensor, fake.from_tensor, call)
            with counter:
                model(*args, **kwargs)
    except Exception as error:  # PyTorch raises many kinds
        first = next(iter(str(error).splitlines()), "")
        raise CaptureError(
            f"{type(model).__name__} cannot be called with {described(model, call)} to count its products "
            f"({type(error).__name__}: {first}): pass inputs that its forward takes"
        ) from error
    counts = {name: sum(each.values()) // 2 for name, each in counter.get_flop_counts().items()}
    return _own({name.partition(".")[2]: count for name, count in counts.items() if name != _ROOT})


def _own(totals: dict[str, int]) -> dict[str, int]:
    """Counts without those of submodules, from counts that include them."""
    own = dict(totals)
    for name, count in totals.items():
        parent = name
        while parent:
            parent = parent.rpartition(".")[0]
            if parent in own:
                own[parent] -= count
                break
    return {name: count for name, count in own.items() if count}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and for a model in full precision attention that shows its products, in the block."""
    modes = {module: module.training for module in model.modules()}
    evaluation_mode(model)
    try:
        if is_prepared(model):
            yield
        else:
            with adapter_for(model).capturing(model):
                yield
    finally:
        for module, mode in modes.items():
            module.training = mode
