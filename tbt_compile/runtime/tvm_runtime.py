"""What running a compiled model takes of TVM: tensors, the virtual machine and the thread pool.

Only TVM's runtime library is loaded. `import tvm` would bring the compiler with all of LLVM: 145 MiB of
memory and half a second that a compiled model has no use for. It can still be imported before or after.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.aligned import ALIGNMENT, aligned_copy
from tbt_compile.torchless import torch_hidden

with torch_hidden():
    import tvm_ffi
    from tvm_ffi.libinfo import load_lib_ctypes

Array = npt.NDArray[Any]
Tensor = Any
"""A tensor of TVM."""

_CPU, _POOLED = 1, 2  # device type and kind of allocator, as the virtual machine numbers them


def _load_runtime() -> None:
    package = find_spec("tvm")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("apache-tvm is not installed: `pip install apache-tvm`", name="tvm")
    folder = Path(package.origin).parent / "lib"
    load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[folder])


_load_runtime()


def virtual_machine(library: Any) -> Any:
    """The virtual machine of a shared library (its path) or of an executable that was just compiled."""
    module = tvm_ffi.load_module(library) if isinstance(library, (str, Path)) else library.jit()
    machine = module["vm_load_executable"]()
    machine["vm_initialization"](_CPU, 0, _POOLED)
    return machine


def is_tensor(value: Any) -> bool:
    """Whether a result of the virtual machine is one tensor, and not an array of them."""
    return isinstance(value, tvm_ffi.Tensor)


def tensor(array: Array) -> Tensor:
    """A tensor with a copy of the array's values."""
    return shared_tensor(aligned_copy(array))


def shared_tensor(array: Array) -> Tensor:
    """A tensor in the memory of an array, which must begin at a multiple of `ALIGNMENT` bytes.

    Raises:
        RuntimeError: it does not, or the array is not in C order.
    """
    return tvm_ffi.from_dlpack(array, require_alignment=ALIGNMENT, require_contiguous=True)


def as_array(value: Tensor) -> Array:
    """The values of a tensor in the tensor's own memory; to be read only."""
    return np.from_dlpack(value)


def set_threads(count: int) -> None:
    """Threads of TVM's pool, for the whole process; they are not bound to cores."""
    tvm_ffi.get_global_func("runtime.config_threadpool")(0, count)
