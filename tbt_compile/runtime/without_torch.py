"""Hiding PyTorch from TVM.

TVM's Python packages import PyTorch if it is installed. Compiled models do not need it, and the import costs
two seconds and 200 MiB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def hide_torch() -> None:
    """Make PyTorch unimportable in this process, unless it was imported already.

    For short commands, and for measuring the memory of a compiled model.
    """
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]


@contextmanager
def torch_hidden() -> Iterator[None]:
    """Hide PyTorch from imports inside the context; the process can import it afterwards."""
    hidden = "torch" not in sys.modules
    hide_torch()
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]
