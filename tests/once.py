"""What is slow to make and made once for all tests: also once for all workers of pytest-xdist."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tbt_compile.runtime.compiled_model import CompiledModel


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder of this name, made by the first worker that asks for it; the others wait and share it.

    Args:
        factory: of temporary folders; a worker's is inside the one that all workers share.
        name: of the folder.
        make: fills the folder, which exists and is empty; tests must not change it afterwards.

    Returns:
        The folder.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, complete = root / name, root / f"{name}.complete"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


def only(model: CompiledModel, cpu: str) -> CompiledModel:
    """The part for one CPU of a model that was compiled for several, as if compiled for that one."""
    (build,) = (build for build in model._builds if build.target.mcpu == cpu)
    tensors = {name: tensor for name, tensor in model._tensors.items() if name in build.tensor_names}
    return CompiledModel([build], model._common, tensors)
