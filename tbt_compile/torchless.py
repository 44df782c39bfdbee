"""Running as on a machine without PyTorch, whether or not it is installed."""

from __future__ import annotations

import sys


def hide_torch() -> None:
    """Make this process behave as if PyTorch were not installed, unless it has been imported already.

    TVM's Python package imports PyTorch wherever it finds it, for nothing that a compiled model needs; that
    takes two seconds and 200 MiB. For short commands, and for measuring what a compiled model takes alone.
    """
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
