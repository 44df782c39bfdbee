"""What running a compiled model takes of TVM: tensors, libraries and the thread pool.

Only TVM's runtime library is loaded. `import tvm` would bring the compiler with all of LLVM: 145 MiB of
memory and half a second that a compiled model has no use for. It can still be imported before or after.
"""

from __future__ import annotations

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
Tensor = Any
"""A tensor of TVM."""


def _load_runtime() -> None:
    package = find_spec("tvm")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("apache-tvm is not installed: `pip install apache-tvm`", name="tvm")
    folder = Path(package.origin).parent / "lib"
    load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[folder])


_load_runtime()
threads.set_defaults()


def load_library(library: Any) -> Any:
    """The functions by name of a shared library (its path), or of a library that was just compiled."""
    return tvm_ffi.load_module(library) if isinstance(library, (str, Path)) else library.jit()


def tensor(array: Array) -> Tensor:
    """A tensor with a copy of the array's values."""
    return shared_tensor(aligned_copy(array))


def shared_tensor(array: Array, compact: bool = True) -> Tensor:
    """A tensor in the memory of an array, which must begin at a multiple of `ALIGNMENT` bytes.

    Raises:
        RuntimeError: it does not, or the array is not in C order although it has to be `compact`.
    """
    return tvm_ffi.from_dlpack(array, require_alignment=ALIGNMENT, require_contiguous=compact)


def as_array(value: Tensor) -> Array:
    """The values of a tensor in the tensor's own memory; to be read only."""
    return np.from_dlpack(value)


def set_threads(count: int | None = None) -> None:
    """Threads for kernels that are called from this Python thread; by default one per core.

    Raises:
        TargetError: there are not that many.
    """
    tvm_ffi.get_global_func("runtime.config_threadpool")(0, threads.choose(count))
