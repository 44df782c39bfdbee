"""How exactly matrix products of float32 are computed in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tbt_compile.errors import did_you_mean
from tbt_compile.training.settings import TrainingError

PRECISIONS = ("highest", "high", "medium")
"""Of `torch.set_float32_matmul_precision`: float32; TF32 on GPUs; bfloat16 factors with float32 sums too."""


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """One of `PRECISIONS` while it lasts.

    Codes and scales of quantizers are computed in float32 whatever it is, and what is saved is float32.

    Raises:
        TrainingError: there is none of that name.
    """
    if name not in PRECISIONS:
        raise TrainingError(
            f"unknown precision {name!r} of matrix products: expected one of {', '.join(PRECISIONS)}."
            + did_you_mean(name, PRECISIONS)
        )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
