"""Learned scales in data-parallel training: the same as if one process saw the whole batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tbt_compile.modules import is_prepared
from tbt_compile.preparation import set_scales
from tbt_compile.quantizers import ActivationQuantizer
from tbt_compile.training import processes


@contextmanager
def shared_scales(model: nn.Module, first_batch: dict[str, Tensor] | None) -> Iterator[None]:
    """Train the scales of a quantized model as one process with the whole batch would, within the context.

    A scale is initialized from the first batch, so every process first runs that whole batch once. LSQ
    divides the gradients of scales, and so do offsets, by the square root of the number of values. A process
    counts only its share of them, so a hook divides by the square root of the number of processes too. With
    one process this does nothing.

    Args:
        model: a prepared model.
        first_batch: arguments of the first forward pass; None when resuming from a checkpoint, which holds
            the scales.
    """
    if processes.count() == 1:
        yield
        return
    if first_batch is not None and is_prepared(model):
        _run(model, first_batch)
    hooks = [
        parameter.register_hook(lambda gradient: gradient / math.sqrt(processes.count()))
        for quantizer in model.modules()
        if isinstance(quantizer, ActivationQuantizer)
        for parameter in quantizer.divided
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(model: nn.Module, batch: dict[str, Tensor]) -> None:
    device: Any = next(model.parameters()).device
    set_scales(model.train(), **{name: tensor.to(device) for name, tensor in batch.items()})
