"""TVM's virtual machine, with the tensors of a model bound to its functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.aligned import aligned_empty
from tbt_compile.runtime.tvm_runtime import (
    Tensor,
    as_array,
    is_tensor,
    shared_tensor,
    tensor,
    virtual_machine,
)

Array = npt.NDArray[Any]


class Machine:
    """The functions of a compiled library, each called with its inputs alone.

    Args:
        library: an executable, or the path of a shared library.
        functions: for every function the names of its tensors, in order.
        tensors: by name, aligned and as the functions take them; they are shared, not copied.
    """

    def __init__(self, library: Any, functions: dict[str, list[str]], tensors: dict[str, Array]) -> None:
        machine = virtual_machine(library)
        shared = {name: shared_tensor(array) for name, array in tensors.items()}
        self._functions = {function: machine[function] for function in functions}
        self._arguments = {
            function: [shared[name] for name in names] for function, names in functions.items()
        }

    def call(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run one function; a function with one result returns it in a list too."""
        result = self._functions[name](*inputs, *self._arguments[name])
        return [result] if is_tensor(result) else list(result)


def take_rows(value: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
    """Rows of a tensor along its first dimension."""
    array = as_array(value)
    taken = aligned_empty((len(rows), *array.shape[1:]), array.dtype)
    # Any other mode of NumPy's has `out` filled through a second buffer.
    return shared_tensor(np.take(array, rows, axis=0, out=taken, mode="clip"))


__all__ = ["Machine", "Tensor", "as_array", "take_rows", "tensor"]
