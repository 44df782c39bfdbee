"""The precision of float32 matrix products in training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tbt_compile.errors import did_you_mean
from tbt_compile.training import processes
from tbt_compile.training.settings import TrainingError

log = logging.getLogger(__name__)

PRECISIONS = ("highest", "high", "medium")
"""Values of `torch.set_float32_matmul_precision`. "highest" is float32, "high" allows TF32 on GPUs, "medium"
also bfloat16 factors with float32 accumulation.
"""


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Set the precision of float32 matrix products within the context.

    Quantizers compute codes and scales in float32 at any precision, and saved weights are float32. Logs a
    warning if this machine has no products faster than float32.

    A CPU with products in bfloat16 computes attention by whole products meanwhile: its fused attention makes
    many small ones, each of which costs more to set up than to compute (5 to 12 times the time of a training
    step for texts of 20 to 64 tokens, as much for 512). Memory grows with the square of the length, as it
    does for quantized attention.

    Args:
        name: one of `PRECISIONS`.

    Raises:
        TrainingError: the precision is unknown.
    """
    if name not in PRECISIONS:
        raise TrainingError(
            f"unknown precision {name!r} of matrix products: expected one of {', '.join(PRECISIONS)}."
            + did_you_mean(name, PRECISIONS)
        )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        faster = product_format() if name != "highest" else "float32"
        if name != "highest" and faster == "float32" and processes.is_first():
            log.warning(
                "precision %r of matrix products has no effect: %s has none faster than float32",
                name,
                "this CPU" if processes.device().type == "cpu" else "this GPU",
            )
        small_products = faster == "bfloat16" and processes.device().type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if small_products else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def recorded_precision() -> dict[str, str]:
    """What a record says of the precision in force, JSON-ready: nothing of float32."""
    name = torch.get_float32_matmul_precision()
    return {} if name == "highest" else {"matmul_precision": name}


def product_format() -> str:
    """The format that factors of float32 products are rounded to: "float32", "tf32" or "bfloat16".

    PyTorch silently accepts a precision that the machine lacks, so this measures: of 1 + 2^-9 + 2^-20, TF32
    (10 mantissa bits) drops the last term and bfloat16 (7 bits) the last two.
    """
    device = processes.device()
    factor = torch.full((64, 64), 1 + 2**-9 + 2**-20, device=device)
    product = (factor @ torch.eye(64, device=device))[0, 0].item()
    if product == factor[0, 0].item():
        return "float32"
    return "bfloat16" if product == 1 else "tf32"
