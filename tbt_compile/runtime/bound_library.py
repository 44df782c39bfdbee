"""A compiled library with the tensors of a model bound to its functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.library.names import MAX_RANK, shapes_of
from tbt_compile.runtime.tvm_runtime import Tensor, as_array, load_library, shared_tensor, tensor
from tbt_compile.storage.aligned import ALIGNMENT, aligned_empty

Array = npt.NDArray[Any]


class BoundLibrary:
    """The functions of a compiled library with their weights bound; calls pass inputs only.

    Thread-safe: functions have no state, and weights are read-only.

    Args:
        library: a compiled library, or the path of a shared library.
        functions: per function, the names of its tensors, in order.
        outputs: per function, dtype and number of dimensions of each output.
        tensors: aligned arrays by name, in the layout of the kernels; shared, not copied.
        steps: per function compiled with clocks, the names of its steps.
        stacks: per function with growing caches, groups of positions among the results; the caches of a
            group are stacked in one tensor.

    Attributes:
        stacks: as above.
        times: per function with clocks, int64 [steps], nanoseconds spent since the library was bound.
    """

    def __init__(
        self,
        library: Any,
        functions: dict[str, list[str]],
        outputs: Mapping[str, Sequence[Sequence[Any]]],
        tensors: dict[str, Array],
        steps: dict[str, list[str]],
        stacks: dict[str, list[list[int]]] | None = None,
    ) -> None:
        self._library = load_library(library)
        self.stacks = stacks or {}
        self._tensors = tensors  # keeps them alive: functions hold their addresses
        self.times = {name: aligned_empty((len(names),), np.int64) for name, names in steps.items()}
        for array in self.times.values():
            array[:] = 0
        self._functions = {
            name: _Function(
                self._library[name],
                self._library[shapes_of(name)],
                _offsets([tensors[parameter] for parameter in parameters]),
                [(np.dtype(dtype), int(rank)) for dtype, rank in outputs[name]],
                [shared_tensor(self.times[name])] if name in steps else [],
            )
            for name, parameters in functions.items()
        }

    def __contains__(self, name: str) -> bool:
        """Whether there is a unit of this name."""
        return name in self._functions

    def function(self, name: str) -> Any:
        """Return a function of the library that is not a unit; it takes tensors and has no weights."""
        return self._library[name]

    def call(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Call a function; returns its outputs as new tensors."""
        return self._functions[name](inputs)

    def call_into(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Call a function and write its outputs to the given tensors.

        Args:
            name: of the function.
            inputs: its inputs, in order.
            outputs: one tensor per output, with its dtype and shape; aligned.

        Raises:
            RuntimeError: a tensor has the wrong shape or dtype.
        """
        self._functions[name].run(inputs, outputs)

    def outputs(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Allocate the outputs of a call of a function, with undefined values."""
        return self._functions[name].outputs(inputs)


class _Function:
    """A function of a library, with its weights and clocks bound."""

    def __init__(
        self,
        run: Any,
        shapes: Any,
        offsets: Tensor,
        outputs: list[tuple[np.dtype[Any], int]],
        times: list[Tensor],
    ) -> None:
        self._run = run
        self._shapes = shapes
        self._offsets = offsets
        self._outputs = outputs
        self._times = times

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        outputs = self.outputs(inputs)
        self.run(inputs, outputs)
        return outputs

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        shapes = aligned_empty((len(self._outputs), MAX_RANK), np.int64)
        self._shapes(*inputs, shared_tensor(shapes))
        sized = zip(shapes.tolist(), self._outputs, strict=True)
        return [
            shared_tensor(array)
            for array in _allocate([(shape[:rank], dtype) for shape, (dtype, rank) in sized])
        ]

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._run(*inputs, self._offsets, *outputs, *self._times)


def _offsets(tensors: Sequence[Array]) -> Tensor:
    """Offsets of the tensors from the address of the result itself, in bytes, int64 [number of tensors].

    Raises:
        RuntimeError: a tensor is not aligned to `ALIGNMENT` bytes, or not in C order.
    """
    for array in tensors:
        shared_tensor(array)  # checks the array
    offsets = aligned_empty((len(tensors),), np.int64)
    offsets[:] = [array.ctypes.data - offsets.ctypes.data for array in tensors]
    return shared_tensor(offsets)


def _allocate(wanted: Sequence[tuple[Sequence[int], np.dtype[Any]]]) -> list[Array]:
    """Allocate arrays of the given shapes and dtypes in one block: a step has dozens, most of them small."""
    placed, end = [], 0
    for shape, dtype in wanted:
        placed.append((shape, dtype, end))
        end += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    memory = aligned_empty((end,), np.uint8)
    return [np.ndarray(shape, dtype, memory, start) for shape, dtype, start in placed]


__all__ = ["Array", "BoundLibrary", "Tensor", "as_array", "tensor"]
