"""Flatten a unit to one compiled function that calls its kernels in order.

TVM's virtual machine allocates an object for every shape, tensor and view: 2,000 per decoding step of
BART-base. Allocating them takes longer than the kernels. Here shapes are arithmetic in compiled code,
intermediate results share one workspace, and outputs are written to memory of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbt_compile.codegen.importer.caches import Caches
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.library.kernel_calls import Array, KernelCalls, Tensor, read_calls, tensors_of
from tbt_compile.codegen.library.names import MAX_RANK, shapes_of
from tbt_compile.codegen.library.workspace import Workspace
from tbt_compile.codegen.tvm_api import (
    Buffer,
    Expr,
    PrimFunc,
    T,
    byte_address,
    call_packed,
    relax,
    tensor_argument,
)


@dataclass(frozen=True)
class FlatUnit:
    """The functions of a unit; `library.names` has their calling convention.

    Attributes:
        run: computes the outputs.
        shapes: computes the shapes of the outputs.
        constants: tensors that TVM created or folded; `run` takes them after the parameters.
        outputs: dtype and number of dimensions of each output argument.
        steps: the names of the kernels in call order.
        reads: of each step, the positions of the parameters and constants that it reads.
    """

    run: PrimFunc
    shapes: PrimFunc
    constants: list[Array]
    outputs: list[tuple[str, int]]
    steps: list[str]
    reads: list[list[int]]


def flatten(
    function: relax.Function, inputs: int, name: str, caches: Caches, *, clock: int | None = None
) -> FlatUnit:
    """Flatten a Relax function that only allocates, views and calls kernels.

    Args:
        function: a legalized function from `importer.relax_api.to_kernels`.
        inputs: number of leading parameters that are user inputs; the others are constant between calls.
        name: of the unit.
        caches: the caches of the unit. The heads dimension of a cache may be strided. A cache that grows is
            passed twice: as an input of its old length and an output of its new length. The caches of a stack
            are one argument, at the position of the first.
        clock: number of a clock of `clock_gettime`, for a `run` that takes one more output, int64 [number of
            steps], and adds to it the nanoseconds that each step takes; None for one that measures nothing.

    Returns:
        The two functions, and the data to call them.

    Raises:
        LoweringError: the function does anything else, returns an input, or views a cache in another shape.
    """
    calls = read_calls(function, name, caches)
    arguments = [calls.values[hash(variable)] for variable in function.params]
    parameters = [*arguments[inputs:], *(tensor for tensor, _ in calls.constants)]
    places = {tensor.key: index for index, tensor in enumerate(parameters)}
    return FlatUnit(
        run=emit.function(name, lambda: _run(calls, arguments[:inputs], parameters, clock)),
        shapes=emit.function(shapes_of(name), lambda: _shapes(calls, arguments[:inputs])),
        constants=[array for _, array in calls.constants],
        outputs=[
            (group[0].dtype, len(calls.argument_shape(group))) for group in calls.arguments(calls.outputs)
        ],
        steps=[kernel for kernel, _ in calls.steps],
        reads=[
            [places[tensor.key] for tensor in tensors_of(items) if tensor.key in places]
            for _, items in calls.steps
        ],
    )


def _run(
    calls: KernelCalls, inputs: Sequence[Tensor], parameters: Sequence[Tensor], clock: int | None
) -> None:
    """Emit the body of `run`: arguments, workspace and calls."""
    data: dict[int, Expr] = {}
    strides: dict[int, list[Expr]] = {}
    copies = []

    def declare(name: str, group: list[Tensor]) -> None:
        buffer = _declare(name, group, calls)
        for index, tensor in enumerate(group):
            if tensor.key in calls.caches:
                strides[tensor.key] = list(buffer.strides)[-len(tensor.shape) :]
            if tensor.key in data:  # one tensor is two outputs
                copies.append((buffer, tensor))
            elif tensor.key in calls.stacked:
                size = np.dtype(tensor.dtype).itemsize
                data[tensor.key] = byte_address(buffer, buffer.strides[0] * (index * size))
            else:
                data[tensor.key] = buffer.data

    for index, group in enumerate(calls.arguments(inputs)):
        declare(f"input_{index}", group)
    places = emit.argument("places", (len(parameters),), "int64")
    for index, tensor in enumerate(parameters):
        data[tensor.key] = byte_address(places, places[index])
    for index, group in enumerate(calls.arguments(calls.outputs)):
        declare(f"output_{index}", group)
    times = emit.argument("times", (len(calls.steps),), "int64") if clock is not None else None
    inner = {key: size for key, size in calls.allocated.items() if key not in data}
    workspace = Workspace(inner, [[tensor.key for tensor in tensors_of(items)] for _, items in calls.steps])
    memory = emit.scratch("workspace", (workspace.size,), "uint8")
    for key, offset in workspace.offsets.items():
        data[key] = byte_address(memory, offset)
    declared: set[str] = set()
    for index, (name, items) in enumerate(calls.steps):
        call = call_packed(name, [_passed(item, data, strides) for item in items], declared)
        if clock is None or times is None:
            T.evaluate(call)
        else:
            _timed(call, times, index, clock)
    for buffer, output in copies:
        _copy(buffer, data[output.key], output)


def _shapes(calls: KernelCalls, inputs: Sequence[Tensor]) -> None:
    """Emit the body of `shapes`: bind the symbols to the input shapes and store one shape per row."""
    for index, group in enumerate(calls.arguments(inputs)):
        _declare(f"input_{index}", group, calls)
    outputs = calls.arguments(calls.outputs)
    shapes = emit.argument("shapes", (len(outputs), MAX_RANK), "int64")
    for index, group in enumerate(outputs):
        for axis, size in enumerate(calls.argument_shape(group)):
            emit.store(shapes, T.cast(size, "int64"), index, axis)


def _declare(name: str, group: list[Tensor], calls: KernelCalls) -> Buffer:
    """Declare an argument of the function; only caches are strided."""
    key = group[0].key
    declare = emit.cache_argument if key in calls.caches else emit.argument
    declare = emit.stack_argument if key in calls.stacked else declare
    return declare(name, calls.argument_shape(group), group[0].dtype)


def _passed(value: Any, data: dict[int, Expr], strides: dict[int, list[Expr]]) -> Expr:
    """The argument to pass to a kernel: an integer as is, a tensor with its address and strides."""
    if not isinstance(value, Tensor):
        return value
    return tensor_argument(data[value.key], value.shape, value.dtype, strides.get(value.key))


def _timed(call: Expr, times: Buffer, index: int, clock: int) -> None:
    """Emit a call, and add the nanoseconds that it takes by a clock to `times[index]`."""
    before, after = (emit.scratch(name, (2,), "int64") for name in ("before", "after"))
    T.evaluate(T.call_extern("int32", "clock_gettime", clock, before.data))
    T.evaluate(call)
    T.evaluate(T.call_extern("int32", "clock_gettime", clock, after.data))
    elapsed = (after[0] - before[0]) * T.int64(1_000_000_000) + after[1] - before[1]
    emit.store(times, times[index] + elapsed, index)


def _copy(target: Buffer, source: Expr, tensor: Tensor) -> None:
    """Copy a tensor to the second of two outputs that alias it."""
    whole = T.decl_buffer(tuple(tensor.shape), tensor.dtype, data=source)
    if not tensor.shape:
        T.buffer_store(target, whole[()], [])
        return
    with T.grid(*tensor.shape) as at:
        places = tuple(at) if len(tensor.shape) > 1 else (at,)  # one loop gives its variable, several a list
        emit.store(target, whole[places], *places)
