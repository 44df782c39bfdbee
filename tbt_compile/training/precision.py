"""How exactly matrix products of float32 are computed in training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tbt_compile.errors import did_you_mean
from tbt_compile.training import processes
from tbt_compile.training.settings import TrainingError

log = logging.getLogger(__name__)

PRECISIONS = ("highest", "high", "medium")
"""Of `torch.set_float32_matmul_precision`: float32; TF32 on GPUs; bfloat16 factors with float32 sums too."""


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """One of `PRECISIONS` while it lasts.

    Codes and scales of quantizers are computed in float32 whatever it is, and what is saved is float32. A
    warning is logged where the machine has no quicker products than those of float32.

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
        if name != "highest" and product_format() == "float32" and processes.is_first():
            log.warning(
                "precision %r of matrix products changes nothing: %s has no quicker ones, float32 stays",
                name,
                "this CPU" if processes.device().type == "cpu" else "this GPU",
            )
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product_format() -> str:
    """What factors of float32 products are rounded to now: "float32", "tf32" or "bfloat16".

    PyTorch takes a precision without a word on machines that do not have it, so this multiplies and looks: of
    1 + 2^-9 + 2^-20, TF32 (10 bits after the point) drops the last term and bfloat16 (7 bits) the last two.
    """
    device = processes.device()
    factor = torch.full((64, 64), 1 + 2**-9 + 2**-20, device=device)
    product = (factor @ torch.eye(64, device=device))[0, 0].item()
    if product == factor[0, 0].item():
        return "float32"
    return "bfloat16" if product == 1 else "tf32"
