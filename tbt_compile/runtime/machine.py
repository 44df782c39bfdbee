"""TVM's virtual machine, with the tensors of a model bound to its functions."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.isa import Isa
from tbt_compile.codegen.parameters import Parameter
from tbt_compile.codegen.tvm_api import relax, tvm

Array = npt.NDArray[Any]
Tensor = Any
"""A tensor of TVM; `.numpy()` copies it out."""
_SHARE_ALL_CPUS = -3
"""TVM's `ThreadGroup::kSpecifyThreadShareAllCore`: every thread may run on every listed CPU."""


class _Functions(threading.local):
    """The library's functions in a virtual machine of the calling thread, made when a thread first asks.

    TVM releases Python's lock while a function runs, and its machine keeps the frames of a running call in
    itself: two threads in one machine overwrite each other's registers. A machine without weights takes
    some 30 us to make.
    """

    def __init__(self, module: Any, names: tuple[str, ...]) -> None:
        self.machine = relax.VirtualMachine(module, tvm.cpu())
        self.by_name = {name: self.machine[name] for name in names}


class Machine:
    """The functions of a compiled library, each called with its inputs alone.

    Any number of threads may call: each has a virtual machine of its own, and the weights are shared.

    Args:
        library: what TVM compiled, or the path of a shared library.
        functions: for every function its parameters, in order.
        tensors: the stored form of every parameter by name; dropped as soon as it is arranged.
        isa: layout of the weights.
    """

    def __init__(
        self, library: Any, functions: dict[str, list[Parameter]], tensors: dict[str, Array], isa: Isa
    ) -> None:
        loaded = isinstance(library, (str, Path))
        module = tvm.runtime.load_module(str(library)) if loaded else library.jit()
        arranged: dict[str, Tensor] = {}
        for parameters in functions.values():
            for parameter in parameters:
                if parameter.name not in arranged:
                    arranged[parameter.name] = tensor(parameter.arrange(tensors[parameter.name], isa))
        self.nbytes = sum(
            int(np.prod(value.shape)) * np.dtype(str(value.dtype)).itemsize for value in arranged.values()
        )
        self._functions = _Functions(module, tuple(functions))
        self._arguments = {
            name: [arranged[parameter.name] for parameter in parameters]
            for name, parameters in functions.items()
        }

    def call(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run one function; a function with one result returns it in a list too."""
        result = self._functions.by_name[name](*inputs, *self._arguments[name])
        return [result] if hasattr(result, "numpy") else list(result)


def tensor(array: Array) -> Tensor:
    """A TVM tensor with the values of an array."""
    return tvm.runtime.tensor(np.ascontiguousarray(array))


def take_rows(value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
    """Rows of a tensor along its first dimension."""
    return tensor(np.take(np.from_dlpack(value), rows, axis=0))


def default_threads() -> int:
    """Threads to use when nobody said how many: TVM_NUM_THREADS, else one per CPU of this process."""
    return int(os.environ.get("TVM_NUM_THREADS") or len(os.sched_getaffinity(0)))


def set_threads(count: int) -> None:
    """Threads for what the calling thread runs from now on, at most one per CPU that it may use.

    TVM has a pool of threads for every thread that calls it, which keeps the size it was made with. Left
    alone TVM binds every pool to the same first CPUs of the machine, whatever the process was confined to,
    and takes half the CPUs at most. Here the threads share the CPUs of the calling thread. The main thread
    gets a pool that allows for any number later; another thread's pool has as many as it asks for first.
    """
    cpus = [str(cpu) for cpu in sorted(os.sched_getaffinity(0))]
    count = min(count, len(cpus))
    configure = tvm.get_global_func("runtime.config_threadpool")
    if threading.current_thread() is not threading.main_thread():
        configure(_SHARE_ALL_CPUS, count, cpus[:count])  # a new pool gets a thread for each in the list
    configure(_SHARE_ALL_CPUS, count, cpus)
