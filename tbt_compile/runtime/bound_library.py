"""The functions of a compiled library, with the tensors of a model bound to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.library.names import MAX_RANK, shapes_of
from tbt_compile.runtime.tvm_runtime import Tensor, as_array, load_library, shared_tensor, tensor
from tbt_compile.storage.aligned import ALIGNMENT, aligned_empty

Array = npt.NDArray[Any]


class BoundLibrary:
    """The functions of a compiled library, each called with its inputs alone.

    Any number of threads may call: functions keep nothing between calls, and the weights are only read.

    Args:
        library: a compiled library, or the path of a shared one.
        functions: for every function the names of its tensors, in order.
        outputs: for every function dtype and number of dimensions of each output.
        tensors: by name, aligned and as the functions take them; they are shared, not copied.
        steps: for functions that measure themselves the names of their steps.
        stacks: for functions with caches that grow, their positions among the results; those of a group are
            one tensor.

    Attributes:
        stacks: as above.
        times: for those functions int64 [steps], nanoseconds since the library was bound.
    """

    def __init__(
        self,
        library: Any,
        functions: dict[str, list[str]],
        outputs: dict[str, Sequence[Sequence[Any]]],
        tensors: dict[str, Array],
        steps: dict[str, list[str]],
        stacks: dict[str, list[list[int]]] | None = None,
    ) -> None:
        self._library = load_library(library)
        self.stacks = stacks or {}
        self._tensors = tensors  # kept: functions know their addresses
        self.times = {name: aligned_empty((len(names),), np.int64) for name, names in steps.items()}
        for array in self.times.values():
            array[:] = 0
        self._functions = {
            name: _Function(
                self._library[name],
                self._library[shapes_of(name)],
                _places([tensors[parameter] for parameter in parameters]),
                [(np.dtype(dtype), int(rank)) for dtype, rank in outputs[name]],
                [shared_tensor(self.times[name])] if name in steps else [],
            )
            for name, parameters in functions.items()
        }

    def function(self, name: str) -> Any:
        """A function of the library besides the units, called with tensors alone."""
        return self._library[name]

    def call(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run one function; returns its outputs, which are new tensors."""
        return self._functions[name](inputs)

    def call_into(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Run one function whose outputs are written to the given tensors.

        Raises:
            RuntimeError: a tensor has another shape or type than the function expects.
        """
        self._functions[name].run(inputs, outputs)


class _Function:
    """A function and the tensors that it takes besides inputs and outputs."""

    def __init__(
        self,
        run: Any,
        shapes: Any,
        places: Tensor,
        outputs: list[tuple[np.dtype[Any], int]],
        times: list[Tensor],
    ) -> None:
        self._run = run
        self._shapes = shapes
        self._places = places
        self._outputs = outputs
        self._times = times

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        shapes = aligned_empty((len(self._outputs), MAX_RANK), np.int64)
        self._shapes(*inputs, shared_tensor(shapes))
        sizes = zip(shapes.tolist(), self._outputs, strict=True)
        outputs = [
            shared_tensor(array)
            for array in _together([(shape[:rank], dtype) for shape, (dtype, rank) in sizes])
        ]
        self.run(inputs, outputs)
        return outputs

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._run(*inputs, self._places, *outputs, *self._times)


def _places(tensors: Sequence[Array]) -> Tensor:
    """Where the tensors begin, in bytes from the result itself, int64 [number of tensors].

    Raises:
        RuntimeError: one does not begin at a multiple of `ALIGNMENT` bytes, or is not in C order.
    """
    for array in tensors:
        shared_tensor(array)
    places = aligned_empty((len(tensors),), np.int64)
    places[:] = [array.ctypes.data - places.ctypes.data for array in tensors]
    return shared_tensor(places)


def _together(wanted: Sequence[tuple[Sequence[int], np.dtype[Any]]]) -> list[Array]:
    """Arrays of the given shapes and dtypes in one piece of memory: a step has dozens, most of them small."""
    places, end = [], 0
    for shape, dtype in wanted:
        places.append((shape, dtype, end))
        end += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    memory = aligned_empty((end,), np.uint8)
    return [np.ndarray(shape, dtype, memory, start) for shape, dtype, start in places]


__all__ = ["Array", "BoundLibrary", "Tensor", "as_array", "tensor"]
