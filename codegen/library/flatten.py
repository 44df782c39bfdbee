"""A unit as one function of the library, which calls its kernels one after the other.

TVM's virtual machine makes shapes, tensors and views as objects whenever it runs a unit: 2,000 of them for a
decoding step of BART-base, more work than the kernels do. Here shapes are arithmetic in compiled code,
intermediate results lie in one workspace, and results are written where the caller wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tbt_compile.codegen.importer.caches import Caches
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.library.kernel_calls import Array, KernelCalls, Tensor, read_calls, tensors_of
from tbt_compile.codegen.library.names import MOST_DIMENSIONS, shapes_of
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

_CLOCK_MONOTONIC = 1  # Linux' number of the clock


@dataclass(frozen=True)
class FlatUnit:
    """The functions of a unit; `library.names` says how they are called.

    Attributes:
        run: computes the outputs.
        shapes: computes their shapes.
        constants: tensors that TVM made or folded; `run` takes them after the parameters.
        outputs: dtype and number of dimensions of each argument for an output.
        steps: the kernels in the order of their calls.
    """

    run: PrimFunc
    shapes: PrimFunc
    constants: list[Array]
    outputs: list[tuple[str, int]]
    steps: list[str]


def flatten(
    function: relax.Function, inputs: int, name: str, caches: Caches, *, clock: bool = False
) -> FlatUnit:
    """The functions of a unit, from a Relax function that only allocates, views and calls kernels.

    Args:
        function: as `to_kernels` leaves it.
        inputs: how many of its parameters, from the first, differ from call to call.
        name: of the unit.
        caches: those of the unit. Their heads may lie apart in memory, and one that grows is passed twice: as
            an input of its old length and an output of its new one. The caches of a stack are one argument,
            in the place of the first.
        clock: let `run` take one more output, int64 [number of steps], and add to it the nanoseconds that
            each step took.

    Raises:
        LoweringError: the function does anything else, returns an input, or views a cache in another shape.
    """
    calls = read_calls(function, name, caches)
    arguments = [calls.values[hash(variable)] for variable in function.params]
    parameters = [*arguments[inputs:], *(tensor for tensor, _ in calls.constants)]
    return FlatUnit(
        run=emit.function(name, lambda: _run(calls, arguments[:inputs], parameters, clock)),
        shapes=emit.function(shapes_of(name), lambda: _shapes(calls, arguments[:inputs])),
        constants=[array for _, array in calls.constants],
        outputs=[
            (group[0].dtype, len(calls.argument_shape(group))) for group in calls.arguments(calls.outputs)
        ],
        steps=[kernel for kernel, _ in calls.steps],
    )


def _run(calls: KernelCalls, inputs: Sequence[Tensor], parameters: Sequence[Tensor], clock: bool) -> None:
    """The body of `run`: arguments, the workspace, and the calls."""
    data: dict[int, Expr] = {}
    strides: dict[int, list[Expr]] = {}
    copies = []

    def declare(name: str, group: list[Tensor]) -> None:
        buffer = _declare(name, group, calls)
        for index, tensor in enumerate(group):
            if tensor.key in calls.caches:
                strides[tensor.key] = list(buffer.strides)[-len(tensor.shape) :]
            if tensor.key in data:  # one tensor as two outputs
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
    times = emit.argument("times", (len(calls.steps),), "int64") if clock else None
    inner = {key: size for key, size in calls.allocated.items() if key not in data}
    workspace = Workspace(inner, [[tensor.key for tensor in tensors_of(items)] for _, items in calls.steps])
    memory = emit.scratch("workspace", (workspace.size,), "uint8")
    for key, offset in workspace.offsets.items():
        data[key] = byte_address(memory, offset)
    for index, (name, items) in enumerate(calls.steps):
        call = call_packed(name, [_passed(item, data, strides) for item in items])
        if times is None:
            T.evaluate(call)
        else:
            _timed(call, times, index)
    for buffer, output in copies:
        _copy(buffer, data[output.key], output)


def _shapes(calls: KernelCalls, inputs: Sequence[Tensor]) -> None:
    """The body of `shapes`: symbols get their values from the inputs, and shapes are stored row by row."""
    for index, group in enumerate(calls.arguments(inputs)):
        _declare(f"input_{index}", group, calls)
    outputs = calls.arguments(calls.outputs)
    shapes = emit.argument("shapes", (len(outputs), MOST_DIMENSIONS), "int64")
    for index, group in enumerate(outputs):
        for axis, size in enumerate(calls.argument_shape(group)):
            emit.store(shapes, T.cast(size, "int64"), index, axis)


def _declare(name: str, group: list[Tensor], calls: KernelCalls) -> Buffer:
    """An argument of the function; only caches may have strides."""
    key = group[0].key
    make = emit.cache_argument if key in calls.caches else emit.argument
    make = emit.stack_argument if key in calls.stacked else make
    return make(name, calls.argument_shape(group), group[0].dtype)


def _passed(value: Any, data: dict[int, Expr], strides: dict[int, list[Expr]]) -> Expr:
    """What a kernel is passed for an argument: an integer as it is, a tensor with its address."""
    if not isinstance(value, Tensor):
        return value
    return tensor_argument(data[value.key], value.shape, value.dtype, strides.get(value.key))


def _timed(call: Expr, times: Buffer, index: int) -> None:
    """A call, and the nanoseconds it took added to `times[index]`."""
    before, after = (emit.scratch(name, (2,), "int64") for name in ("before", "after"))
    T.evaluate(T.call_extern("int32", "clock_gettime", _CLOCK_MONOTONIC, before.data))
    T.evaluate(call)
    T.evaluate(T.call_extern("int32", "clock_gettime", _CLOCK_MONOTONIC, after.data))
    passed = (after[0] - before[0]) * T.int64(1_000_000_000) + after[1] - before[1]
    emit.store(times, times[index] + passed, index)


def _copy(target: Buffer, source: Expr, tensor: Tensor) -> None:
    """The second of two outputs that are one tensor."""
    whole = T.decl_buffer(tuple(tensor.shape), tensor.dtype, data=source)
    with T.grid(*tensor.shape) as at:
        emit.store(target, whole[tuple(at)], *at)
