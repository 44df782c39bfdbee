"""The part of TVM that compiled models run on: tensors, libraries and the thread pool.

Only TVM's runtime library is loaded. `import tvm` would load the compiler with all of LLVM, which costs
145 MiB of memory and half a second. It can still be imported before or after this module.
"""

from __future__ import annotations

import itertools
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.library import threads
from tbt_compile.runtime.without_torch import torch_hidden
from tbt_compile.storage.aligned import ALIGNMENT, aligned_copy

with torch_hidden():
    import tvm_ffi
    from tvm_ffi.libinfo import load_lib_ctypes

Array = npt.NDArray[Any]
_LOADS = itertools.count()
Tensor = Any
"""A TVM tensor."""


def _load_runtime() -> None:
    package = find_spec("tvm")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("apache-tvm is not installed: `pip install apache-tvm`", name="tvm")
    folder = Path(package.origin).parent / "lib"
    load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[folder])


_load_runtime()
threads.set_defaults()


def load_library(library: Any) -> Any:
    """Load a shared library from its path, or JIT-link a compiled one; returns its functions by name."""
    return tvm_ffi.load_module(_unused_name(library)) if isinstance(library, (str, Path)) else library.jit()


def _unused_name(library: str | Path) -> str:
    """Another spelling of a path, new to this process.

    The dynamic linker takes a name that it knows for the library that it loaded by that name, even if the
    file was replaced since. Under a new name it compares the files themselves, and still loads each once.
    (Windows takes only names with backslashes, and does not let a loaded file be replaced.)
    """
    path = Path(os.path.abspath(library))
    if os.name == "nt":
        return str(path)
    bits = f"{next(_LOADS):b}"
    return f"{path.parent}/{''.join('./' if bit == '1' else '/' for bit in bits)}{path.name}"


def tensor(array: Array) -> Tensor:
    """Copy an array to a tensor."""
    return shared_tensor(aligned_copy(array))


def shared_tensor(array: Array, compact: bool = True) -> Tensor:
    """Make a tensor that aliases an array, which must begin at a multiple of `ALIGNMENT` bytes.

    Raises:
        RuntimeError: the array is not aligned, or not contiguous although `compact` requires it.
    """
    return tvm_ffi.from_dlpack(array, require_alignment=ALIGNMENT, require_contiguous=compact)


def as_array(value: Tensor) -> Array:
    """View a tensor as an array that aliases its memory; treat it as read-only."""
    return np.from_dlpack(value)


def set_threads(count: int | None = None) -> None:
    """Set the number of threads for kernels called from this Python thread; default: one per core.

    Raises:
        TargetError: the machine has fewer CPUs.
    """
    tvm_ffi.get_global_func("runtime.config_threadpool")(0, threads.choose(count))
