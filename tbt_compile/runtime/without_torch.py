"""Running as on a machine without PyTorch, whether or not it is installed.

TVM's Python packages import PyTorch wherever they find it, for nothing that a compiled model needs; that
takes two seconds and 200 MiB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def hide_torch() -> None:
    """Make this process behave as if PyTorch were not installed, unless it has been imported already.

    For short commands, and for measuring what a compiled model takes alone.
    """
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]


@contextmanager
def torch_hidden() -> Iterator[None]:
    """Hide PyTorch from what is imported inside; the process can import it afterwards."""
    hidden = "torch" not in sys.modules
    hide_torch()
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]
