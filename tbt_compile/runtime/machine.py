"""TVM's virtual machine, with the tensors of a model bound to its functions."""

from __future__ import annotations

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


class Machine:
    """The functions of a compiled library, each called with its inputs alone.

    Args:
        library: an executable, or the path of a shared library.
        functions: for every function its parameters, in order.
        tensors: the stored form of every parameter by name; dropped as soon as it is arranged.
        isa: layout of the weights.
    """

    def __init__(
        self, library: Any, functions: dict[str, list[Parameter]], tensors: dict[str, Array], isa: Isa
    ) -> None:
        module = tvm.runtime.load_module(str(library)) if isinstance(library, (str, Path)) else library
        self._machine = relax.VirtualMachine(module, tvm.cpu())
        arranged: dict[str, Tensor] = {}
        for parameters in functions.values():
            for parameter in parameters:
                if parameter.name not in arranged:
                    arranged[parameter.name] = tensor(parameter.arrange(tensors[parameter.name], isa))
        self.nbytes = sum(
            int(np.prod(value.shape)) * np.dtype(str(value.dtype)).itemsize for value in arranged.values()
        )
        self._functions = {name: self._machine[name] for name in functions}
        self._arguments = {
            name: [arranged[parameter.name] for parameter in parameters]
            for name, parameters in functions.items()
        }

    def call(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run one function; a function with one result returns it in a list too."""
        result = self._functions[name](*inputs, *self._arguments[name])
        return [result] if hasattr(result, "numpy") else list(result)


def tensor(array: Array) -> Tensor:
    """A TVM tensor with the values of an array."""
    return tvm.runtime.tensor(np.asarray(array, order="C"))


def take_rows(value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
    """Rows of a tensor along its first dimension."""
    return tensor(np.take(np.from_dlpack(value), rows, axis=0))


def set_threads(count: int) -> None:
    """Threads of TVM's pool, for the whole process; they are not bound to cores."""
    tvm.get_global_func("runtime.config_threadpool")(0, count)
