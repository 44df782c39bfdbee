"""Several processes that train one model together, started by `torchrun` or, on GPUs, `accelerate launch`.

Each takes its share of every batch. With one process, everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

PATIENCE = timedelta(days=1)
"""How long processes wait for the first one, which generates and scores texts alone."""


def start() -> None:
    """Join the other processes, over NCCL on GPUs and gloo on CPUs; needed before anything else here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes what all share: files, tables, progress."""
    return not dist.is_initialized() or dist.get_rank() == 0


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Go on when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def first() -> Iterator[None]:
    """The first process goes through alone, then the others: they find what it wrote."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def device() -> torch.device:
    """Where this process computes: its GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def weight(counted: Tensor) -> float | Tensor:
    """What to multiply a mean over the kept values of this process's share of a batch with.

    Training averages the gradients of the processes as if each counted the same, although their shares hold
    different numbers of tokens. A mean over n values here, times n over the mean n of all processes, makes
    the average over the processes the mean of all values.

    Args:
        counted: bool tensor of any shape, set where there is a value.
    """
    if count() == 1:
        return 1.0
    here = counted.sum().float()
    everywhere = here.clone()
    dist.all_reduce(everywhere)
    return here * count() / everywhere
