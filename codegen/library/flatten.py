"""A unit as one function of the library, which calls its kernels one after the other.

TVM's virtual machine makes shapes, tensors and views as objects whenever it runs a unit: 2,000 of them for a
decoding step of BART-base, more work than the kernels'. Here shapes are arithmetic of the compiled code,
intermediate results lie in one workspace, and the unit's results are written where the caller wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tbt_compile.codegen.importer.caches import Caches
from tbt_compile.codegen.kernels.dsl import emit
from tbt_compile.codegen.library.names import MOST_DIMENSIONS, shapes_of
from tbt_compile.codegen.library.workspace import Workspace, bytes_of
from tbt_compile.codegen.tvm_api import (
    Buffer,
    Expr,
    PrimFunc,
    T,
    byte_address,
    call_packed,
    ir,
    relax,
    tensor_argument,
)
from tbt_compile.errors import LoweringError

_MONOTONIC = 1  # Linux' number of the clock

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FlatUnit:
    """The functions of a unit.

    Attributes:
        run: (inputs, places, outputs): everything as tensors; the outputs are written. `places`, int64
            [number of parameters and constants], tells where each of those is, in bytes from `places` itself:
            hundreds of arguments would take longer than some kernels.
        shapes: (inputs, int64 [number of outputs, 8]): writes the shapes of the outputs.
        constants: tensors that came up on the way; they follow the parameters.
        outputs: dtype and number of dimensions of each argument for them.
        steps: the kernels in the order of their calls.
    """

    run: PrimFunc
    shapes: PrimFunc
    constants: list[Array]
    outputs: list[tuple[str, int]]
    steps: list[str]


@dataclass(frozen=True)
class _Tensor:
    """A tensor and the key of the memory that it is in: an argument, a constant or an allocation."""

    key: int
    shape: list[Expr]
    dtype: str


@dataclass
class _Calls:
    """What a function does, in order.

    Attributes:
        values: of every variable by its hash: a tensor or a list of tensors.
        allocated: bytes of what is allocated.
        steps: kernels by name with their arguments: tensors and integers.
        constants: with their values, each once.
        outputs: the results.
        caches: keys of tensors whose heads may lie apart.
        stacked: the keys of tensors that are one argument, by each of them.
    """

    unit: str
    values: dict[int, Any] = field(default_factory=dict)
    allocated: dict[int, Expr] = field(default_factory=dict)
    steps: list[tuple[str, list[Any]]] = field(default_factory=list)
    constants: list[tuple[_Tensor, Array]] = field(default_factory=list)
    outputs: list[_Tensor] = field(default_factory=list)
    caches: set[int] = field(default_factory=set)
    stacked: dict[int, tuple[int, ...]] = field(default_factory=dict)


def flatten(
    function: relax.Function, inputs: int, name: str, caches: Caches, *, clock: bool = False
) -> FlatUnit:
    """The functions of a Relax function whose first `inputs` parameters differ from call to call.

    Args:
        caches: those of the unit. Its heads may lie apart, and the memory of one that grows has to be passed
            twice: as it was and as it will be. Stacks are one argument, at the place of their first member.
        clock: let `run` take one more output, int64 [number of steps], and add to it the nanoseconds that
            each step took.

    Raises:
        LoweringError: it does something else than allocating tensors, viewing them and calling kernels.
    """
    calls = _read(function, name, caches)
    arguments = [calls.values[hash(variable)] for variable in function.params]
    constants = [tensor for tensor, _ in calls.constants]
    return FlatUnit(
        emit.function(
            name, lambda: _run(calls, arguments[:inputs], [*arguments[inputs:], *constants], clock)
        ),
        emit.function(shapes_of(name), lambda: _shapes(calls, arguments[:inputs])),
        [array for _, array in calls.constants],
        [(group[0].dtype, len(_shape_of(group, calls))) for group in _grouped(calls.outputs, calls)],
        [kernel for kernel, _ in calls.steps],
    )


def _read(function: relax.Function, name: str, caches: Caches) -> _Calls:
    calls = _Calls(name)
    for variable in function.params:
        calls.values[hash(variable)] = _tensor_of(variable, hash(variable))
    for block in function.body.blocks:
        for binding in block.bindings:
            calls.values[hash(binding.var)] = _value(binding.value, binding.var, calls)
    result = _operand(function.body.body, calls)
    calls.outputs = list(result) if isinstance(result, list) else [result]
    if not all(output.key in calls.allocated for output in calls.outputs):
        raise LoweringError(f"the {name} returns one of its inputs: return what it computes only")
    calls.caches = {hash(function.params[place]) for place in caches.inputs}
    calls.caches |= {calls.outputs[place].key for place in caches.outputs}
    for stack in caches.stacks:
        for members in (
            tuple(hash(function.params[place]) for place, _ in stack),
            tuple(calls.outputs[place].key for _, place in stack),
        ):
            calls.stacked |= dict.fromkeys(members, members)
    if any(_is_viewed(tensor, calls) for tensor in calls.values.values() if _is_cache(tensor, calls)):
        raise LoweringError(f"the {name} views a cache in another shape, whose heads may lie apart")
    return calls


def _tensor_of(variable: Any, key: int) -> _Tensor:
    return _Tensor(key, list(variable.ty.shape), str(variable.ty.dtype))


def _value(value: Any, variable: Any, calls: _Calls) -> Any:
    """What a variable is bound to; a call of a kernel is noted."""
    if not isinstance(value, relax.Call):
        return _operand(value, calls)
    if isinstance(value.op, ir.GlobalVar):
        calls.steps.append((value.op.name_hint, [_operand(argument, calls) for argument in value.args]))
        return None
    operator = value.op.name
    if operator == "relax.builtin.alloc_tensor":
        tensor = _tensor_of(variable, hash(variable))
        calls.allocated[tensor.key] = bytes_of(tensor.shape, tensor.dtype)
        return tensor
    if operator == "relax.reshape":
        return _tensor_of(variable, _operand(value.args[0], calls).key)
    raise LoweringError(f"the {calls.unit} holds {operator}, which has no kernel")


def _operand(value: Any, calls: _Calls) -> Any:
    """A tensor, a list of tensors, or an integer."""
    if isinstance(value, ir.Var) and hash(value) in calls.values:
        return calls.values[hash(value)]
    if isinstance(value, ir.Tuple):
        return [_operand(item, calls) for item in value.fields]
    if isinstance(value, ir.TupleGetItem):
        return _operand(value.tuple_value, calls)[value.index]
    if isinstance(value, ir.GenericConst):
        return _constant(value.value.numpy(), calls)
    return value


def _constant(array: Array, calls: _Calls) -> _Tensor:
    for tensor, known in calls.constants:
        if known.dtype == array.dtype and known.shape == array.shape and known.tobytes() == array.tobytes():
            return tensor
    tensor = _Tensor(~len(calls.constants), [T.int64(size) for size in array.shape], str(array.dtype))
    calls.constants.append((tensor, array))
    return tensor


def _run(calls: _Calls, inputs: Sequence[_Tensor], parameters: Sequence[_Tensor], clock: bool) -> None:
    """Arguments, the workspace, and the calls."""
    data: dict[int, Expr] = {}
    strides: dict[int, list[Expr]] = {}
    copies = []

    def argument(name: str, group: list[_Tensor]) -> None:
        buffer = _argument(name, group, calls)
        for layer, tensor in enumerate(group):
            if tensor.key in calls.caches:
                strides[tensor.key] = list(buffer.strides)[-len(tensor.shape) :]
            if tensor.key in data:
                copies.append((buffer, tensor))
            elif tensor.key in calls.stacked:
                size = np.dtype(tensor.dtype).itemsize
                data[tensor.key] = byte_address(buffer, buffer.strides[0] * (layer * size))
            else:
                data[tensor.key] = buffer.data

    for index, group in enumerate(_grouped(inputs, calls)):
        argument(f"input_{index}", group)
    places = emit.argument("places", (len(parameters),), "int64")
    for index, tensor in enumerate(parameters):
        data[tensor.key] = byte_address(places, places[index])
    for index, group in enumerate(_grouped(calls.outputs, calls)):
        argument(f"output_{index}", group)
    times = emit.argument("times", (len(calls.steps),), "int64") if clock else None
    inner = {key: size for key, size in calls.allocated.items() if key not in data}
    workspace = Workspace(inner, [[item.key for item in _tensors(items)] for _, items in calls.steps])
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


def _timed(call: Expr, times: Buffer, index: int) -> None:
    before, after = (emit.scratch(name, (2,), "int64") for name in ("before", "after"))
    T.evaluate(T.call_extern("int32", "clock_gettime", _MONOTONIC, before.data))
    T.evaluate(call)
    T.evaluate(T.call_extern("int32", "clock_gettime", _MONOTONIC, after.data))
    passed = (after[0] - before[0]) * T.int64(1_000_000_000) + after[1] - before[1]
    emit.store(times, times[index] + passed, index)


def _grouped(tensors: Sequence[_Tensor], calls: _Calls) -> list[list[_Tensor]]:
    """The tensors of each argument."""
    groups = []
    for tensor in tensors:
        stack = calls.stacked.get(tensor.key, (tensor.key,))
        if stack[0] == tensor.key:
            groups.append([tensor, *(other for other in tensors if other.key in stack[1:])])
    return groups


def _shape_of(group: list[_Tensor], calls: _Calls) -> list[Expr]:
    """The shape of an argument."""
    shape = group[0].shape
    return [T.int64(len(group)), *shape] if group[0].key in calls.stacked else shape


def _argument(name: str, group: list[_Tensor], calls: _Calls) -> Buffer:
    key = group[0].key
    make = emit.cache_argument if key in calls.caches else emit.argument
    make = emit.stack_argument if key in calls.stacked else make
    return make(name, _shape_of(group, calls), group[0].dtype)


def _is_cache(value: Any, calls: _Calls) -> bool:
    return isinstance(value, _Tensor) and value.key in calls.caches


def _is_viewed(tensor: _Tensor, calls: _Calls) -> bool:
    """Whether a kernel reads a tensor in another shape."""
    read = [item for _, items in calls.steps for item in _tensors(items) if item.key == tensor.key]
    return any(item is not tensor for item in read)


def _tensors(items: Sequence[Any]) -> list[_Tensor]:
    return [item for item in items if isinstance(item, _Tensor)]


def _passed(value: Any, data: dict[int, Expr], strides: dict[int, list[Expr]]) -> Expr:
    if not isinstance(value, _Tensor):
        return value
    return tensor_argument(data[value.key], value.shape, value.dtype, strides.get(value.key))


def _copy(target: Buffer, source: Expr, tensor: _Tensor) -> None:
    """One more output that is the same tensor as another one."""
    whole = T.decl_buffer(tuple(tensor.shape), tensor.dtype, data=source)
    with T.grid(*tensor.shape) as at:
        emit.store(target, whole[tuple(at)], *at)


def _shapes(calls: _Calls, inputs: Sequence[_Tensor]) -> None:
    for index, group in enumerate(_grouped(inputs, calls)):
        _argument(f"input_{index}", group, calls)
    outputs = _grouped(calls.outputs, calls)
    shapes = emit.argument("shapes", (len(outputs), MOST_DIMENSIONS), "int64")
    for index, group in enumerate(outputs):
        for axis, size in enumerate(_shape_of(group, calls)):
            emit.store(shapes, T.cast(size, "int64"), index, axis)
