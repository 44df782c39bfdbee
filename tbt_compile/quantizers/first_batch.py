"""Where learned scales may be set from the data that a model sees first.

In several processes each would set them from its own share of a batch, and they would stay apart: gradients
are shared, values are not. In a sharded model the value would be lost with the gathered parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch.distributed as dist

from tbt_compile.errors import PlanError

_SAME_BATCH = ContextVar("same_batch", default=False)


@contextmanager
def same_batch() -> Iterator[None]:
    """Say that all processes see the same batch, in the model as it is, in the `with` block."""
    before = _SAME_BATCH.set(True)
    try:
        yield
    finally:
        _SAME_BATCH.reset(before)


def check_first_batch() -> None:
    """Check that scales may be set here.

    Raises:
        PlanError: this is one of several processes.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if several and not _SAME_BATCH.get():
        raise PlanError(
            "the learned scales of this model are not set, and every process would set them from another "
            "batch: call tbt_compile.set_scales(model, **batch) with the same batch in every process, before "
            "the model is sharded"
        )
