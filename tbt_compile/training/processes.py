"""Data-parallel training: helpers for the processes that `torchrun` or `accelerate launch` start.

Each process takes its share of every batch. With one process these helpers do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState

TIMEOUT = timedelta(days=1)
"""How long the other processes wait while the first one generates and scores texts."""


def start() -> None:
    """Join the process group, over NCCL on GPUs and Gloo on CPUs; call this before anything else here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)


def count() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes files, tables and progress for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Wait until every process arrives here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def first() -> Iterator[None]:
    """Run a block in the first process before the others, which then find what it wrote."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def device() -> torch.device:
    """The device of this process: its GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
