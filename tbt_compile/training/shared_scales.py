"""Learned scales when several processes share a batch: as if one process saw all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tbt_compile.quantizers import ActivationQuantizer
from tbt_compile.training import processes


@contextmanager
def shared_scales(model: nn.Module, first_batch: dict[str, Tensor] | None) -> Iterator[None]:
    """Within it, a model with quantizers trains as one process with the whole batch would train it.

    A scale takes its first value from the first batch: every process runs all of that batch once, before its
    share of it. And the gradient of a scale is divided by the square root of the number of values (LSQ), of
    which each process sees a part. With one process nothing is done.

    Args:
        first_batch: the arguments of the first forward pass; None when training goes on from a checkpoint,
            which holds the scales.
    """
    if processes.count() == 1:
        yield
        return
    if first_batch is not None:
        _run(model, first_batch)
    hooks = [
        quantizer.scale.register_hook(lambda gradient: gradient / math.sqrt(processes.count()))
        for quantizer in model.modules()
        if isinstance(quantizer, ActivationQuantizer) and quantizer.learned
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _run(model: nn.Module, batch: dict[str, Tensor]) -> None:
    device: Any = next(model.parameters()).device
    model.train()(**{name: tensor.to(device) for name, tensor in batch.items()})
